#!/usr/bin/env bash
# The benchmark and the accuracy table run, every report is written and read back, and each suite of bench/ makes its calls
# once. No figure is judged: other things run on this machine.
source "$(dirname "$0")/common.sh"
test_env
cd "$scratch"
show timeout 300 ruvector bench --quick --json bench.json --html bench.html --markdown bench.md
show ruvector bench --from bench.json bench.json --markdown merged.md
show ruvector bench --compare bench.json bench.json
show timeout 600 ruvector accuracy --json accuracy.json
for file in bench.json bench.html bench.md merged.md accuracy.json; do
    [ -s "$file" ] || fail "$file is empty"
done
cd "$checkout"
show timeout 600 pytest bench/ --benchmark-disable -q -k "not 8192 and not 4096 and not 32768 and not 100000x"
