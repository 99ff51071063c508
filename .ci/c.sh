#!/usr/bin/env bash
# csrc alone: it compiles without a warning and without a flag for every compiler and system that can be had here,
# exports nothing without its prefix, and its C tests pass.
source "$(dirname "$0")/common.sh"
need gcc libc6-dev clang-14 gcc-aarch64-linux-gnu libc6-dev-arm64-cross
new_env zig
show pip install ziglang
export ZIG_GLOBAL_CACHE_DIR=$scratch/zig-cache ZIG_LOCAL_CACHE_DIR=$scratch/zig-cache
objects=$scratch/objects
mkdir -p "$objects"
cd "$objects"

strict=(-std=c11 -Wall -Wextra -Werror)
sources=("$root"/csrc/*.c "$root"/csrc/isa/*.c)
for compiler in gcc clang-14 aarch64-linux-gnu-gcc; do
    echo "$compiler ${strict[*]} [-O3] -c csrc/*.c csrc/isa/*.c"
    "$compiler" "${strict[@]}" -O3 -c "${sources[@]}" # warnings that need data flow
    "$compiler" "${strict[@]}" -c "${sources[@]}"
done
for target in x86_64-windows-gnu aarch64-windows-gnu x86_64-macos aarch64-macos x86_64-linux-musl aarch64-linux-musl; do
    echo "zig cc -target $target ${strict[*]} -c csrc/*.c csrc/isa/*.c"
    for source in "${sources[@]}"; do # zig would link several into one object
        python -m ziglang cc -target "$target" "${strict[@]}" -c "$source" -o zig.o
    done
done

rm zig.o
gcc "${strict[@]}" -c "${sources[@]}"
globals=$(nm -g --defined-only ./*.o | awk 'NF == 3 { print $3 }' | sort)
echo "$(wc -l <<<"$globals") global symbols in csrc"
if foreign=$(grep -v '^rv_' <<<"$globals"); then fail "global symbols without the prefix rv_: $foreign"; fi

cd "$root"
for compiler in gcc clang-14; do
    c_tests "$compiler" -O3
done
