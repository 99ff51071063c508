#!/usr/bin/env bash
# The README's test command in a fresh environment, then the slow tests, which it leaves out. Tests marked peer are
# skipped here, with their reason.
source "$(dirname "$0")/common.sh"
test_env
cd "$checkout"
show timeout 900 pytest
show timeout 1200 pytest -m "slow and not peer"
