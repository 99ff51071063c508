#!/usr/bin/env bash
# The test suite on aarch64 by emulation: the extension modules cross-compiled by the project's own setup.py, NumPy's
# aarch64 wheels, and the distribution's Python in a root of its own. proot passes child processes to the emulator too.
source "$(dirname "$0")/common.sh"
if [ "$(uname -m)" != x86_64 ]; then
    echo "not run: this machine is $(uname -m), not x86-64"
    exit 0
fi
need qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross mmdebstrap proot
arm=$scratch/arm64
mkdir -p "$arm"

RV_TEST_BRIEF=1 c_tests aarch64-linux-gnu-gcc "-O3 -static" "qemu-aarch64 -cpu max"

release=$(. /etc/os-release && echo "$VERSION_CODENAME")
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v release="$release" '$2 == release && $3 == "main" { print $1; exit }')
[ -n "$mirror" ] || fail "apt knows no source of $release main"
show mmdebstrap --quiet --arch=arm64 --variant=extract --include=python3,python3-dev,libstdc++6,libgcc-s1 \
    "$release" "$arm/root" "$mirror"

new_env cross
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ -e "$arm/root/usr/bin/python$version" ] || fail "the aarch64 root has no Python $version; set PYTHON to its version"
show pip install build -U "setuptools>=77" "Cython>=3.3" "numpy>=2.0"

extra test >"$arm/test.txt"
show pip install --target "$arm/site" --implementation cp --python-version "$version" --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
    --platform manylinux2014_aarch64 "numpy>=1.26" pytest-xdist -r "$arm/test.txt"

# sysconfig of the aarch64 Python answers for the host's, so the build's flags, names and tags are those of aarch64.
copy_tree "$arm/checkout"
mkdir "$arm/sysconfig"
cp "$arm/root/usr/lib/python$version/_sysconfigdata__aarch64-linux-gnu.py" "$arm/sysconfig"
(
    cd "$arm/checkout"
    export _PYTHON_HOST_PLATFORM=linux-aarch64 _PYTHON_SYSCONFIGDATA_NAME=_sysconfigdata__aarch64-linux-gnu
    export CC=aarch64-linux-gnu-gcc LDSHARED="aarch64-linux-gnu-gcc -shared" PYTHONPATH=$arm/sysconfig
    export CFLAGS="-I$arm/root/usr/include/python$version -I$arm/root/usr/include"
    quiet python -m build --wheel --no-isolation --outdir "$arm/wheel" .
)
python -m zipfile -e "$arm"/wheel/ruvector-*-linux_aarch64.whl "$arm/site"

emulated() { # emulated CPU ARGUMENTS...: the aarch64 Python, outside the checkout's package
    local cpu=$1
    shift
    env -i PATH=/usr/bin:/bin HOME="$arm" TMPDIR="$arm" LANG=C.UTF-8 CI="${CI:-}" PYTHONPATH="$arm/site" \
        PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 RUVECTOR_TEST_TIME_FACTOR=30 \
        proot -q "qemu-aarch64 -cpu $cpu" -r "$arm/root" -b /proc -b /dev -b "$arm" -w "$arm/checkout" \
        "/usr/bin/python$version" "$@"
}
plain() { emulated cortex-a53 "$@"; }
newest() { emulated max,pauth-impdef=on "$@"; } # the cheap form of pointer authentication: start-up takes half as long
isas_are "neon scalar" plain
isas_are "neon scalar" newest
mapfile -t smoke < <(grep -l 'mark\.smoke' tests/test_*.py)
show plain -m pytest -q -m smoke -p no:cacheprovider "${smoke[@]}"
started=$SECONDS
# The portable kernels are the same source on every processor: smoke above, the suite natively in python.sh.
# So are compositions in Python over the kernels, what they refuse, and the tools around them.
left_out=()
for name in approximate approximate_peers axial bad_input bench demo docs index index_files memory retrieval sdk sdk_bad_input sdk_layers sdk_pipeline weights; do
    left_out+=("--ignore=tests/test_$name.py")
done
show newest -m pytest -n "$(nproc)" -m "not peer and not slow" -k "not scalar" -p no:cacheprovider "${left_out[@]}"
took=$((SECONDS - started))
echo "$took s under emulation"
# 12 minutes are meant; a busy neighbour can double the time of a shared machine, which is no fault of the change
[ "$took" -le 720 ] || echo "WARNING: more than 12 minutes under emulation"
[ "$took" -le 1500 ] || fail "more than 25 minutes under emulation"
