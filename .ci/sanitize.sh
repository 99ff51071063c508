#!/usr/bin/env bash
# The C tests under AddressSanitizer and UndefinedBehaviorSanitizer, the thread pool under ThreadSanitizer. Always
# clang: gcc 12 does not instrument AVX-512 masked loads, so it would miss an over-read of a tail.
source "$(dirname "$0")/common.sh"
need clang-14 libclang-rt-14-dev libc6-dev
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
flags="-O1 -g -fno-omit-frame-pointer"
c_tests clang-14 "$flags -fsanitize=address,undefined -fno-sanitize-recover=all" ""

# A kernel with 32 random bits of address space confuses clang 14's ThreadSanitizer; some containers refuse setarch.
fixed=
! setarch -R true 2>/dev/null || fixed="setarch -R"
c_tests clang-14 "$flags -fsanitize=thread" "$fixed" thread
