#!/usr/bin/env bash
# The SQL functions in DuckDB, which the README's command skips where DuckDB is absent: the statements of the documents, random
# inputs against Python, the command `ruvector sql` as it is installed.
source "$(dirname "$0")/common.sh"
test_env
extra sql >"$scratch/sql.txt"
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
show timeout 900 pytest tests/test_duckdb.py tests/test_duckdb_tables.py tests/test_docs.py
show python bench/sql_scores.py --rows 20000 --rounds 2
