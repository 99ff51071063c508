#!/usr/bin/env bash
# Old x86 processors by emulation: an instruction that leaked out of its dispatched kernel is a SIGILL here.
# The emulator has no AVX-512; those kernels run natively in python.sh, or show as skipped there.
source "$(dirname "$0")/common.sh"
if [ "$(uname -m)" != x86_64 ]; then
    echo "not run: this machine is $(uname -m), not x86-64"
    exit 0
fi
need qemu-user
test_env
cd "$checkout"
export RUVECTOR_TEST_TIME_FACTOR=30 # limits on time are for real processors
# Only the files with smoke tests are collected: others import packages of the earlier legs, some of which need newer
# processors (DuckDB's wheel dies on Nehalem of an illegal instruction).
mapfile -t smoke < <(grep -l 'mark\.smoke' tests/test_*.py)
level() { # level CPU ISAS
    # A kernel that the surroundings force on NumPy's BLAS suits the real processor, not this one.
    local emulated=(env -u OPENBLAS_CORETYPE qemu-x86_64 -cpu "$1" "$env/bin/python")
    echo "emulated CPU: $1"
    # The emulator names, on every start, the system-mode features that it leaves out.
    isas_are "$2" "${emulated[@]}" 2> >(grep -v "TCG doesn't support" >&2)
    show timeout 600 "${emulated[@]}" -P -m pytest -m smoke -p no:cacheprovider "${smoke[@]}" 2> >(grep -v "TCG doesn't support" >&2)
}
level Nehalem "scalar"
level Haswell "avx2 scalar"
