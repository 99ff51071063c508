"""Searches over tables in DuckDB, names that are no tables, connections, threads, and the command `ruvector sql`."""

import csv
import gc
import io
import json
import threading

import numpy as np
import pytest
import ruvector
from support import normal, run_python, same_bits

duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

from ruvector.duckdb import register  # noqa: E402

pytestmark = pytest.mark.sql


@pytest.fixture
def con():
    with duckdb.connect() as con:
        register(con)
        yield con


def make(con, name, ids, rows, element="FLOAT", names=("id", "embedding")):
    """A table of keys and vectors, its rows in a random order."""
    order = np.random.default_rng(3).permutation(len(ids))
    kind = pa.list_(pa.float32() if element == "FLOAT" else pa.float64())
    data = pa.table({names[0]: [ids[i] for i in order], names[1]: pa.array([rows[i] for i in order], kind)})
    con.register("data", data)
    con.execute(
        f'CREATE TABLE {name} AS SELECT "{names[0]}", "{names[1]}"::{element}[{len(rows[0])}] AS "{names[1]}" FROM data'
    ).fetchall()
    con.unregister("data")


@pytest.mark.parametrize("element, dtype", [("FLOAT", np.float32), ("DOUBLE", np.float64)])
@pytest.mark.parametrize("ids", [list(range(300)), [f"doc {i:03}" for i in range(300)]], ids=("integers", "texts"))
def test_mha_search(con, ids, element, dtype):
    rows, query = normal((300, 32), dtype, "rows"), normal((32,), dtype, "query")
    make(con, "docs", ids, rows, element, ("Key", "x"))
    make(con, "ask", [0], [query], element)
    con.execute('INSERT INTO docs ("Key") VALUES (NULL)').fetchall()  # without an embedding: not looked at
    for heads, k in ((8, 10), (4, 3), (1, 1000)):
        weights = ruvector.attention_scores(query, rows, "multi_head", num_heads=heads)
        best = np.argsort(-weights, kind="stable")[:k]
        found = con.execute(
            "SELECT * FROM ruvector_mha_search('docs', (SELECT embedding FROM ask), "
            f"num_heads := {heads}, k := {k}, id_column := 'key', embedding_column := 'X')"
        ).fetchall()
        assert [row[0] for row in found] == [ids[i] for i in best]
        assert same_bits(np.array([row[1] for row in found], dtype), weights[best])


def test_equal_scores_come_by_key(con):
    make(con, "docs", [3, 1, 2], np.ones((3, 4), np.float32))
    assert con.execute("SELECT * FROM ruvector_mha_search('docs', [1, 1, 1, 1], 2, 2)").fetchall() == [
        (1, np.float32(1 / 3)),
        (2, np.float32(1 / 3)),
    ]


def test_gat_search(con):
    rows = normal((40, 24), np.float32, "nodes")
    edges = np.random.default_rng(1).integers(0, 40, (2, 300))
    edges[:, :2] = [[5, 5], [7, 7]]
    make(con, "nodes", list(range(40)), rows)
    con.register("data", pa.table({"src": edges[0], "dst": edges[1]}))
    con.execute("CREATE TABLE edges AS SELECT src AS source, dst AS target FROM data").fetchall()
    for node, heads, k in ((7, 4, 10), (0, 3, 2), (11, 1, 100)):
        ids, scores = ruvector.gat_search(rows, edges, node, heads, k)
        found = con.execute(
            f"SELECT * FROM ruvector_gat_search('nodes', 'edges', {node}, {heads}, k := {k})"
        ).fetchall()
        assert [row[0] for row in found] == ids.tolist()
        assert same_bits(np.array([row[1] for row in found], np.float32), scores)
    con.execute("ALTER TABLE edges RENAME source TO a").fetchall()
    con.execute("ALTER TABLE edges RENAME target TO b").fetchall()
    sql = "SELECT * FROM ruvector_gat_search('nodes', 'edges', 11, 1, 100, source_column := 'a', target_column := 'b')"
    assert con.execute(sql).fetchall() == found
    with pytest.raises(duckdb.Error, match="query_node_id 99 is no node with an embedding"):
        con.execute(sql.replace("11", "99")).fetchall()
    con.execute("INSERT INTO edges VALUES (1000, 11)").fetchall()
    with pytest.raises(duckdb.Error, match="edge source 1000 is no node with an embedding"):
        con.execute(sql).fetchall()


@pytest.mark.parametrize("name", ["scaled_dot", "flash", "multi_head", "poincare"])
def test_cross_attention(con, name):
    queries, rows = normal((9, 16), np.float32, "queries") * 0.1, normal((50, 16), np.float32, "rows") * 0.1
    queries, rows = queries.astype(np.float32), rows.astype(np.float32)
    make(con, "asked", list(range(9)), queries)
    make(con, "held", list(range(50)), rows)
    sql = (
        f"SELECT * FROM ruvector_cross_attention('asked', 'embedding', 'held', 'embedding', attention_type := '{name}'"
    )
    found = con.execute(sql + ")").fetchall()
    weights = np.stack([ruvector.attention_scores(query, rows, name) for query in queries])
    best = np.argsort(-weights, axis=1, kind="stable")
    assert [row[:2] for row in found] == [(i, j) for i in range(9) for j in best[i]]
    assert same_bits(np.array([row[2] for row in found], np.float32), np.take_along_axis(weights, best, 1).ravel())
    assert con.execute(sql + ", k := 3)").fetchall() == [row for i in range(9) for row in found[50 * i : 50 * i + 3]]
    if name == "multi_head":
        one = con.execute(sql + ", options := {'num_heads': 2})").fetchall()[0]
        assert one[2] == ruvector.attention_scores(queries[0], rows, name, num_heads=2)[one[1]] != found[0][2]


def test_sliding_attention(con):
    rows = normal((70, 12), np.float32, "rows")
    make(con, "words", list(range(70)), rows)
    for size, stride in ((256, 128), (16, 8), (7, 7)):
        found = con.execute(
            "SELECT * FROM ruvector_sliding_attention((SELECT list(embedding ORDER BY id) FROM words), "
            f"window_size := {size}, stride := {stride})"
        ).fetchall()
        assert [row[0] for row in found] == list(range(70))
        assert same_bits(
            np.array([row[1] for row in found], np.float32), ruvector.sliding_attention(rows, size, stride)[2]
        )
    with pytest.raises(duckdb.InvalidInputException, match="stride must be between 1 and window_size 8"):
        con.execute("SELECT * FROM ruvector_sliding_attention([[1.0]], 8, 9)").fetchall()


# Names that are none --------------------------------------------------------------------------------------------------

PROBES = (
    "docs; DROP TABLE secret",
    "docs' ; DROP TABLE secret; --",
    'docs"; DROP TABLE secret; --',
    "docs) ; DELETE FROM secret; --",
    "(SELECT 1 AS id, [1.0, 2.0] AS embedding)",
    "docs UNION ALL SELECT * FROM secret",
    "docs, secret",
    "docs WHERE 1 = 1",
    "docs\x00secret",
    "docs -- ",
    "docs /* */",
    "'docs'",
    "$1",
    "?",
    "COLUMNS(*)",
    "*",
    "",
    " ",
    "getenv('HOME')",
    "\u202edocs",
)


@pytest.mark.parametrize("probe", PROBES)
def test_injections_do_nothing(con, probe):
    """As a table, and as each column: an error, and nothing has changed."""
    make(con, "docs", [1, 2], np.eye(2, dtype=np.float32))
    con.execute("CREATE TABLE secret AS SELECT 42 AS id, [9.0, 9.0]::FLOAT[2] AS embedding").fetchall()
    con.execute("CREATE TABLE edges AS SELECT 1 AS source, 2 AS target").fetchall()
    text = "'" + probe.replace("'", "''") + "'"
    for sql in (
        f"ruvector_mha_search({text}, [1, 1], 1)",
        f"ruvector_mha_search('docs', [1, 1], 1, id_column := {text})",
        f"ruvector_mha_search('docs', [1, 1], 1, embedding_column := {text})",
        f"ruvector_gat_search({text}, 'edges', 2, 1)",
        f"ruvector_gat_search('docs', {text}, 2, 1)",
        f"ruvector_gat_search('docs', 'edges', 2, 1, source_column := {text})",
        f"ruvector_gat_search('docs', 'edges', 2, 1, target_column := {text})",
        f"ruvector_cross_attention({text}, 'embedding', 'docs', 'embedding')",
        f"ruvector_cross_attention('docs', {text}, 'docs', 'embedding')",
        f"ruvector_cross_attention('docs', 'embedding', 'docs', {text})",
    ):
        with pytest.raises(duckdb.Error):
            con.execute(f"SELECT * FROM {sql}").fetchall()
    assert con.execute("SELECT id FROM secret").fetchall() == [(42,)]
    assert con.execute("SELECT id FROM docs ORDER BY id").fetchall() == [(1,), (2,)]


# Connections and threads ----------------------------------------------------------------------------------------------


def test_registering_again_and_on_several_connections(tmp_path):
    file = str(tmp_path / "a.db")
    first = duckdb.connect(file)
    for _ in range(3):
        register(first)
    with first.cursor() as cursor:
        register(cursor)
        assert cursor.execute("SELECT ruvector_softmax([1.0])").fetchall() == [([1.0],)]
    second = duckdb.connect(file)  # the same database: it has the functions, not yet their names
    register(second)
    first.close()
    assert second.execute("SELECT ruvector_attention_score([1.0], [2.0])").fetchall() == [(2.0,)]
    second.close()
    # nothing of it is in the file
    with duckdb.connect(file) as con:
        names = con.execute(
            "SELECT function_name FROM duckdb_functions() WHERE function_name LIKE '%ruvector%'"
        ).fetchall()
        assert names == []
        register(con)
        assert con.execute("SELECT ruvector_version()").fetchall() == [(ruvector.__version__,)]


def test_functions_outlive_the_connection_that_brought_them():
    with duckdb.connect() as con:
        with con.cursor() as cursor:
            register(cursor)
        register(con)
        gc.collect()
        assert con.execute("SELECT ruvector_softmax([0.0, 0.0])").fetchall() == [([0.5, 0.5],)]


def test_register_wants_a_connection():
    with pytest.raises(TypeError, match="con must be a connection of DuckDB, got str"):
        register("a.db")


def test_types_that_were_added_are_listed(con):
    assert con.execute("SELECT count(*) FROM ruvector_attention_types()").fetchall() == [
        (len(ruvector.attention_types()),)
    ]
    rows = con.execute("SELECT * FROM ruvector_attention_types()").fetchall()
    assert rows == [(r.name, r.complexity, r.best_for) for r in ruvector.attention_types()]


@pytest.mark.parametrize("count", (1, 4))
def test_results_do_not_depend_on_threads(con, count):
    rows = normal((20_000, 16), np.float32, "rows")
    make(con, "docs", list(range(len(rows))), rows)
    con.execute(f"SET threads = {count}").fetchall()
    query = rows[0].tolist()
    found = con.execute(f"SELECT ruvector_attention_score({query}, embedding) FROM docs ORDER BY id").fetchall()
    assert same_bits(np.array([row[0] for row in found], np.float32), ruvector.attention_score(rows[0], rows))


def test_several_connections_at_once():
    rows = normal((5_000, 16), np.float32, "rows")
    expected = ruvector.attention_score(rows[0], rows)
    results = {}

    def work(i, con):
        register(con)
        sql = f"SELECT ruvector_attention_score({rows[0].tolist()}, embedding) FROM docs ORDER BY id"
        results[i] = np.array([row[0] for row in con.execute(sql).fetchall()], np.float32)

    with duckdb.connect() as con:  # which is not registered: the first of the others brings the functions
        make(con, "docs", list(range(len(rows))), rows)
        threads = [threading.Thread(target=work, args=(i, con.cursor())) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(same_bits(results[i], expected) for i in range(4))


# The command ----------------------------------------------------------------------------------------------------------


def shell(*arguments, stdin=""):
    code = (
        "import io, sys; from ruvector.cli import main; "
        f"sys.stdin = io.StringIO({stdin!r}); sys.exit(main(['sql', *{list(arguments)!r}]))"
    )
    return run_python(code, timeout=120)


SCORE = "SELECT ruvector_attention_score([1.0, 0, 0, 0], [1.0, 0, 0, 0]) AS score"


def test_command_prints_duckdbs_box(tmp_path):
    file = tmp_path / "a.sql"
    file.write_text(f"CREATE TABLE t (i INTEGER);\n-- \u00e9\n{SCORE};\n", encoding="utf-8")
    with duckdb.connect() as con:
        register(con)
        box = str(con.sql(SCORE))
    for result in (shell(str(file)), shell("-c", SCORE), shell(stdin=SCORE)):
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == box.strip()


def test_command_prints_csv_and_json():
    two = "SELECT 1 AS a, 'x,y' AS b; SELECT 2.5 AS a, NULL AS b"
    result = shell("--csv", "-c", two)
    assert list(csv.reader(io.StringIO(result.stdout))) == [["a", "b"], ["1", "x,y"], ["a", "b"], ["2.5", ""]]
    result = shell("--json", "-c", "SELECT 1 AS a, ruvector_softmax([0.0, 0.0]) AS b", "-c", "SELECT 2 AS a")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [[{"a": 1, "b": [0.5, 0.5]}], [{"a": 2}]]


@pytest.mark.parametrize(
    "bad", ["SELECT ruvector_attention_score([1.0], [1.0, 2.0])", "SELEC 1", "SELECT * FROM nowhere"]
)
def test_command_stops_at_what_fails(bad):
    result = shell(stdin=f"SELECT 11 AS a; {bad}; SELECT 33 AS a")
    assert result.returncode == 1
    assert "33" not in result.stdout
    assert bad in result.stderr
    assert "Traceback" not in result.stderr


def test_command_keeps_a_database(tmp_path):
    file = str(tmp_path / "a.db")
    assert shell("--database", file, "-c", "CREATE TABLE t AS SELECT 7 AS i").returncode == 0
    assert json.loads(shell("--database", file, "--json", "-c", "FROM t").stdout) == [{"i": 7}]


def test_mistakes_of_the_user(tmp_path):
    for arguments in (["no.sql"], ["--database", str(tmp_path), "-c", "SELECT 1"], ["a.sql", "-c", "SELECT 1"]):
        result = shell(*arguments)
        assert result.returncode == 2
        assert result.stderr.startswith("ruvector: error:") and "Traceback" not in result.stderr


@pytest.mark.parametrize("missing", ("duckdb", "pyarrow"))
def test_what_is_missing_is_named(missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {missing!r}: raise ModuleNotFoundError('hidden', name=name)\n"
        f"del sys.modules[{missing!r}]; sys.meta_path.insert(0, Hide())\n"
        "from ruvector.cli import main; sys.exit(main(['sql', '-c', 'SELECT 1']))"
    )
    result = run_python(code)
    assert result.returncode == 2
    assert f"{missing} is not installed" in result.stderr


def test_the_module_of_the_same_name_is_the_package():
    import ruvector.duckdb

    assert ruvector.duckdb.duckdb is duckdb and hasattr(duckdb, "connect")
