#!/usr/bin/env bash
# The tests that compare with other libraries, which the README's command skips.
source "$(dirname "$0")/common.sh"
test_env
extra peers >"$scratch/peers.txt"
show pip install -r "$scratch/peers.txt"
cd "$checkout"
show timeout 900 pytest -m peer
