#!/usr/bin/env bash
# The SQL layers on real servers: PostgreSQL 15 of Debian (without pgvector), 16 and 18 (with it), each with the extension
# built from the checkout's C sources, and databases inside the process.
source "$(dirname "$0")/common.sh"
need gcc libc6-dev make postgresql-15 postgresql-server-dev-15 procps
test_env
chmod 711 "$scratch" # servers run as nobody and read the environment's binaries
{ extra postgres; extra sql; } >"$scratch/sql.txt"
show pip install -r "$scratch/sql.txt"
cd "$scratch"
show python -P - "$checkout/tests" <<'PYTHON'
import sys

sys.path.append(sys.argv[1])
import duckdb
import statements

forms = [statement.form("duckdb") for scene in statements.SCENES for statement in scene.statements]
print(f"DuckDB {duckdb.__version__}: {sum(form is not None for form in forms)} of {len(forms)} statements")
PYTHON
show ruvector sql -c "SELECT ruvector_version(); SELECT * FROM ruvector_attention_types()"
cd "$checkout"
show python bench/sql_scores.py --rows 20000 --rounds 2
show timeout 360 pytest -s -q -m sql -p no:cacheprovider
show timeout 300 pytest -q -m "sql and slow" -p no:cacheprovider tests/test_postgres.py
