# Sourced by every leg. Works on Debian and Ubuntu, as root or with sudo; leaves nothing outside its scratch folder
# but the system packages that were missing.
# shellcheck shell=bash
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
if [ -n "${RUVECTOR_CI_SCRATCH:-}" ]; then
    scratch=$RUVECTOR_CI_SCRATCH # .ci/run shares one between its legs and removes it
else
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=2 PYTHONDONTWRITEBYTECODE=1

show() { # print a command, then run it
    printf '+ %s\n' "$*"
    "$@"
}

quiet() { # as show, but of the output only the last line, or the end of it on failure
    printf '+ %s\n' "$*"
    if "$@" >"$scratch/quiet.log" 2>&1; then
        tail -n 1 "$scratch/quiet.log"
    else
        tail -n 60 "$scratch/quiet.log"
        fail "$1"
    fi
}

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

need() { # system packages; asks apt only for what is missing, and for its lists once
    local package missing=() sudo=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    printf 'installing %s\n' "${missing[*]}"
    if [ ! -e "$scratch/apt-lists" ]; then
        "${sudo[@]}" apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update
        touch "$scratch/apt-lists"
    fi
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 install "${missing[@]}" >/dev/null
}

usable_python() { # 3.11 or newer, able to make environments and to compile extension modules
    "$1" -c '
import ensurepip, os, sys, sysconfig
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(sys.version_info < (3, 11) or not os.path.exists(header))' 2>/dev/null
}

find_python() { # sets $python; 3.11 first, the version that the aarch64 root of neon.sh has
    local candidate
    for candidate in ${PYTHON:-python3.11 python3}; do
        if usable_python "$candidate"; then
            python=$(command -v "$candidate")
            return
        fi
    done
    need python3 python3-dev python3-venv
    python=/usr/bin/python3
    usable_python "$python" || fail "no Python of at least 3.11 with headers and venv"
}

new_env() { # new_env NAME: a fresh virtual environment, first on PATH
    find_python
    rm -rf "${scratch:?}/$1"
    "$python" -m venv "$scratch/$1"
    use_env "$1"
}

use_env() {
    env=$scratch/$1
    PATH=$env/bin:$PATH
    hash -r
}

copy_tree() { # copy_tree DIR: what a clone of the working tree would hold, so that no build touches the checkout
    rm -rf "${1:?}"
    mkdir -p "$1"
    git ls-files -coz --exclude-standard | while IFS= read -r -d '' file; do
        [ ! -e "$file" ] || printf '%s\0' "$file"
    done | tar -cf - --null -T - | tar -xf - -C "$1"
}

test_env() { # the README's installation for tests, once for all legs of a run; sets $checkout
    checkout=$scratch/checkout
    if [ -e "$scratch/test/installed" ]; then
        use_env test
        return
    fi
    copy_tree "$checkout"
    new_env test
    (cd "$checkout" && show pip install ".[test]")
    touch "$env/installed"
}

extra() { # extra NAME: the requirements of one extra of pyproject.toml, one a line
    python - "$1" <<'END'
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"][sys.argv[1]], sep="\n")
END
}

c_tests() { # c_tests COMPILER FLAGS RUNNER [NAME...]: the programs of tests/c, all of them unless named
    echo "+ CC=$1 CFLAGS='$2' RUNNER='$3' tests/c/run.sh ${*:4}"
    CC=$1 CFLAGS=$2 RUNNER=$3 sh tests/c/run.sh "${@:4}"
}

isas_are() { # isas_are EXPECTED COMMAND...: a Python that imports ruvector finds exactly these ISAs usable
    local expected=$1 found
    shift
    found=$("$@" -P -c 'import ruvector; print(*ruvector.isas())')
    printf 'usable ISAs: %s\n' "$found"
    [ "$found" = "$expected" ] || fail "expected the ISAs $expected, found $found"
}
