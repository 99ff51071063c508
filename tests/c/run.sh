#!/bin/sh
# Builds every tests/c/test_*.c with the C core and runs it: tests/c/run.sh [name...]
#
# A test test_x.c is linked with the x_*.c beside it. CC, CFLAGS: compiler and flags; RUNNER: what runs the programs, for example
# CC=aarch64-linux-gnu-gcc CFLAGS="-O2 -static" RUNNER=qemu-aarch64. ARGS: arguments of the programs.
set -eu
cd "$(dirname "$0")/../.."
CC=${CC:-cc}
CFLAGS=${CFLAGS:--O2 -g}
RUNNER=${RUNNER:-}
ARGS=${ARGS:-}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT INT TERM

compile() {
    $CC -std=c11 -Wall -Wextra -Werror -ffp-contract=off $CFLAGS -Icsrc -pthread -c "$1" -o "$2"
}

core=
for source in csrc/*.c csrc/isa/*.c; do
    object=$build/$(echo "$source" | tr / _).o
    compile "$source" "$object"
    core="$core $object"
done

if [ $# -eq 0 ]; then
    for source in tests/c/test_*.c; do
        name=${source##*/test_}
        set -- "$@" "${name%.c}"
    done
fi

broken=
for name; do
    echo "== test_$name"
    objects=
    for source in tests/c/test_"$name".c tests/c/"$name"_*.c; do
        [ -e "$source" ] || continue
        object=$build/$(basename "$source").o
        compile "$source" "$object"
        objects="$objects $object"
    done
    $CC $CFLAGS $objects $core -pthread -lm -o "$build/test_$name"
    $RUNNER "$build/test_$name" $ARGS || broken="$broken test_$name"
done
if [ -n "$broken" ]; then
    echo "FAILED:$broken"
    exit 1
fi
echo "all $# programs passed"
