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
compile() { # compile COMMAND...: every source of csrc, one for each processor at a time
    echo "$* ${strict[*]} -c csrc/*.c csrc/isa/*.c"
    # shellcheck disable=SC2016
    printf '%s\n' "$root"/csrc/*.c "$root"/csrc/isa/*.c |
        xargs -P "$(nproc)" -I '{}' sh -c '"$@" -c "$0" -o "$(basename "$0").o"' '{}' "$@" "${strict[@]}"
}
for target in x86_64-windows-gnu aarch64-windows-gnu x86_64-macos aarch64-macos x86_64-linux-musl aarch64-linux-musl; do
    compile python -m ziglang cc -target "$target"
done
for compiler in aarch64-linux-gnu-gcc clang-14 gcc; do
    compile "$compiler"
    compile "$compiler" -O3 # warnings that need data flow, and the code that users run
    case $compiler in
        aarch64*) show python "$root/.ci/hot_loops.py" aarch64-linux-gnu-objdump 24 neon_f??.c.o ;;
        *)
            [ "$(uname -m)" = x86_64 ] || continue
            show python "$root/.ci/hot_loops.py" objdump 24 avx512*_f??.c.o
            show python "$root/.ci/hot_loops.py" objdump 12 avx2_f??.c.o
            ;;
    esac
done

globals=$(nm -g --defined-only ./*.o | awk 'NF == 3 { print $3 }' | sort)
echo "$(wc -l <<<"$globals") global symbols in csrc"
if foreign=$(grep -v '^rv_' <<<"$globals"); then fail "global symbols without the prefix rv_: $foreign"; fi

cd "$root"
c_tests gcc -O3 "" # clang's turn comes with the sanitizers
