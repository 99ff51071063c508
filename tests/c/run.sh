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

export CC CFLAGS build
# shellcheck disable=SC2016
compile='$CC -std=c11 -Wall -Wextra -Werror -ffp-contract=off $CFLAGS -Icsrc -pthread -c "$1" -o "$build/$(echo "$1" | tr / _).o"'
objects() { # objects SOURCE...: compiles them, as many at a time as there are processors; sets $made
    printf '%s\n' "$@" | xargs -P "$(getconf _NPROCESSORS_ONLN)" -n 1 sh -c "$compile" sh
    made=
    for source; do
        made="$made $build/$(echo "$source" | tr / _).o"
    done
}

objects csrc/*.c csrc/isa/*.c
core=$made

if [ $# -eq 0 ]; then
    for source in tests/c/test_*.c; do
        name=${source##*/test_}
        set -- "$@" "${name%.c}"
    done
fi

broken=
for name; do
    echo "== test_$name"
    sources=
    for source in tests/c/test_"$name".c tests/c/"$name"_*.c; do
        [ ! -e "$source" ] || sources="$sources $source"
    done
    # shellcheck disable=SC2086
    objects $sources
    $CC $CFLAGS $made $core -pthread -lm -o "$build/test_$name"
    $RUNNER "$build/test_$name" $ARGS || broken="$broken test_$name"
done
if [ -n "$broken" ]; then
    echo "FAILED:$broken"
    exit 1
fi
echo "all $# programs passed"
