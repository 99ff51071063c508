"""SQL in DuckDB against Python, bit for bit: the statements of the documents, and random inputs for every function."""

import numpy as np
import pytest
import ruvector
import statements
from support import normal, same_bits

duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

from ruvector.duckdb import register  # noqa: E402

pytestmark = pytest.mark.sql


@pytest.fixture
def con():
    with duckdb.connect() as con:
        register(con)
        yield con


def kind_of(kind, values):
    return {
        "int": "INTEGER",
        "text": "VARCHAR",
        "json": "JSON",
        "vector": f"FLOAT[{np.shape(values[0])[-1] if np.ndim(values[0]) else 0}]",
        "floats": "FLOAT[]",
        "matrix": "FLOAT[][]",
        "vectors": f"FLOAT[{np.shape(values[0])[-1] if np.ndim(values[0]) else 0}][]",
    }[kind]


def plain(value):
    if isinstance(value, dict):
        import json

        return json.dumps(value)
    return value.tolist() if isinstance(value, np.ndarray) else value


def load(con, table):
    marks = ", ".join(
        f"?::{kind_of(kind, [row[i] for row in table.rows])}" for i, (_, kind) in enumerate(table.columns)
    )
    names = ", ".join(f'"{name}"' for name, _ in table.columns)
    con.executemany(
        f"INSERT INTO {table.name} ({names}) VALUES ({marks})", [[plain(x) for x in row] for row in table.rows]
    ).fetchall()


@pytest.mark.parametrize("scene", statements.SCENES, ids=lambda scene: scene.name)
def test_statements_of_the_documents(scene, con):
    for table in scene.tables:
        columns = ", ".join(
            f'"{name}" {kind_of(kind, [row[i] for row in table.rows])}' for i, (name, kind) in enumerate(table.columns)
        )
        con.execute(f"CREATE TABLE {table.name} ({columns})").fetchall()
        load(con, table)

    def fetch(sql):
        return con.execute(sql).fetchall()

    for statement in scene.statements:
        sql = statement.form("duckdb")
        if sql is None:
            continue
        if statement.error is not None:
            with pytest.raises(duckdb.InvalidInputException, match=statement.error):
                fetch(sql)
            continue
        rows = fetch(sql)
        if statement.fills is not None:
            load(con, next(table for table in scene.loaded if table.name == statement.fills))
        if statement.check is not None:
            statement.check(rows, scene.data, fetch)


# Random inputs --------------------------------------------------------------------------------------------------------

TYPES = {"FLOAT": np.float32, "DOUBLE": np.float64}
C_TYPES = [record.name for record in ruvector._registry.records()]
SHAPES = (1, 3, 7, 40)


def table(con, name, **columns):
    """A table of columns of arrays (or None); a column is (rows, SQL type)."""
    arrays = {}
    for key, (rows, sql) in columns.items():
        element = pa.float32() if sql.startswith("FLOAT") else pa.float64()
        kind = element
        for part in sql.split("[")[1:]:
            width = part.rstrip("]")
            kind = pa.list_(kind, int(width)) if width else pa.list_(kind)
        arrays[key] = pa.array([None if row is None else row.tolist() for row in rows], kind)
    data = pa.table({"i": pa.array(range(len(rows))), **arrays})
    con.register("data", data)
    con.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM data").fetchall()
    con.unregister("data")


def column(con, sql):
    """The only column of a query as Python values."""
    return [row[0] for row in con.execute(sql).fetchall()]


def equal(found, expected, dtype):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        if b is None:
            assert a is None
            continue
        assert b.dtype == dtype
        assert same_bits(np.asarray(a, dtype), np.asarray(b)), (a, b)


def vectors(rows, width, dtype, *seed, nulls=False):
    found = list(normal((rows, width), dtype, *seed))
    return [None if nulls and i % 5 == 2 else x for i, x in enumerate(found)]


def scaled(rows, factor):
    return [None if x is None else x * x.dtype.type(factor) for x in rows]


@pytest.mark.parametrize("rows", (1, 3, 2500))
@pytest.mark.parametrize("layout", ("[]", "[24]"))
@pytest.mark.parametrize("element", TYPES)
def test_scores_of_pairs(con, element, layout, rows):
    dtype = TYPES[element]
    query, key = vectors(rows, 24, dtype, "q", nulls=rows > 1), vectors(rows, 24, dtype, "k")
    table(con, "t", q=(query, element + layout), k=(key, element + layout))
    for name in ("scaled_dot", "multi_head", "flash", "cross", "alibi"):
        expected = [None if q is None else ruvector.attention_score(q, k, name) for q, k in zip(query, key)]
        equal(column(con, f"SELECT ruvector_attention_score(q, k, '{name}') FROM t ORDER BY i"), expected, dtype)
    expected = [
        None if q is None else ruvector.attention_score(q, k, "multi_head", num_heads=3, scale=0.5)
        for q, k in zip(query, key)
    ]
    sql = "SELECT ruvector_attention_score(q, k, attention_type := 'MHA', options := {'num_heads': 3, 'scale': 0.5}) FROM t ORDER BY i"
    equal(column(con, sql), expected, dtype)
    assert column(con, "SELECT DISTINCT typeof(ruvector_attention_score(q, k)) FROM t") == [element]


@pytest.mark.parametrize("element", TYPES)
def test_softmax_and_distances(con, element):
    dtype = TYPES[element]
    x = [normal((n,), dtype, "softmax", n) for n in (1, 2, 7, 0, 64, 129)] * 3 + [None]
    table(con, "t", x=(x, element + "[]"))
    equal(
        column(con, "SELECT ruvector_softmax(x) FROM t ORDER BY i"),
        [None if row is None else ruvector.softmax(row) for row in x],
        dtype,
    )
    a, b = (scaled(vectors(2500, 12, dtype, name, nulls=name == "a"), 0.05) for name in "ab")
    table(con, "t", a=(a, element + "[]"), b=(b, element + "[12]"))
    for curvature in (1.0, 0.25, -2.0):
        expected = [None if p is None else ruvector.hyperbolic_distance(p, q, curvature) for p, q in zip(a, b)]
        equal(column(con, f"SELECT ruvector_hyperbolic_distance(a, b, {curvature}) FROM t ORDER BY i"), expected, dtype)


@pytest.mark.parametrize("counts", ((5,), SHAPES), ids=("one shape", "many shapes"))
@pytest.mark.parametrize("layout", ("[][]", "[16][]"))
@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("name", C_TYPES)
def test_attention_of_every_type(con, name, element, layout, counts):
    """A type's own function, and the function of all types; keys of equal and of different lengths, with NULLs."""
    dtype, factor = TYPES[element], 0.05 if name in ("poincare", "lorentz") else 1.0
    record = next(r for r in ruvector.attention_types() if r.name == name)
    options = (
        {"space_only": True}
        if name == "lorentz"
        else {"num_features": 8}
        if record.family == "linear" and name != "linear"
        else {}
    )
    width = 64 if name in ("grouped_query", "multi_query") else 16
    many = [counts[i % len(counts)] for i in range(23)]
    query = scaled(vectors(23, width, dtype, "q", nulls=True), factor)
    keys, values = (
        [x for n in many for x in [normal((n, 16), dtype, what, n, len(counts)) * dtype(factor)]] for what in ("k", "v")
    )
    if name == "multi_query":
        keys, values = [x[:, :8] for x in keys], [x[:, :8] for x in values]
        layout = layout.replace("16", "8")
    table(con, "t", q=(query, element + "[]"), k=(keys, element + layout), v=(values, element + layout))
    expected = [
        None if q is None else ruvector.attention(q, k, v, name, **options) for q, k, v in zip(query, keys, values)
    ]
    own = {"flash_v2": "flash"}.get(name, name)
    given = "".join(f", {key} := {str(value).lower()}" for key, value in options.items())
    equal(column(con, f"SELECT ruvector_{own}_attention(q, k, v{given}) FROM t ORDER BY i"), expected, dtype)
    struct = (
        "{" + ", ".join(f"'{key}': {str(value).lower()}" for key, value in options.items()) + "}" if options else "NULL"
    )
    equal(column(con, f"SELECT ruvector_attention(q, k, v, '{name}', {struct}) FROM t ORDER BY i"), expected, dtype)
    expected = [None if q is None else ruvector.attention_scores(q, k, name, **options) for q, k in zip(query, keys)]
    equal(column(con, f"SELECT ruvector_attention_scores(q, k, '{name}', {struct}) FROM t ORDER BY i"), expected, dtype)


@pytest.mark.parametrize("element", TYPES)
def test_routes(con, element):
    dtype = TYPES[element]
    x = vectors(2100, 20, dtype, "route", nulls=True)
    table(con, "t", x=(x, element + "[20]"))
    for row, own in zip(column(con, "SELECT ruvector_moe_route(x, 5, top_k := 3) FROM t ORDER BY i"), x):
        if own is None:
            assert row is None
            continue
        indices, weights = ruvector.moe_route(own, 5, 3)
        assert row["expert_indices"] == indices.tolist()
        assert same_bits(np.asarray(row["expert_weights"], dtype), weights)


@pytest.mark.parametrize("element", TYPES)
def test_groups_through_list(con, element):
    dtype = TYPES[element]
    keys, values = vectors(5000, 16, dtype, "k"), vectors(5000, 8, dtype, "v")
    table(con, "t", k=(keys, element + "[16]"), v=(values, element + "[8]"))
    query = normal((16,), dtype, "q")
    text = str(query.tolist()) + f"::{element}[]"
    found = con.execute(
        f"SELECT i % 7 AS g, ruvector_attention({text}, list(k ORDER BY i), list(v ORDER BY i)) FROM t GROUP BY g ORDER BY g"
    ).fetchall()
    keys, values = np.stack(keys), np.stack(values)
    equal([row[1] for row in found], [ruvector.attention(query, keys[g::7], values[g::7]) for g in range(7)], dtype)


def test_options_that_differ_from_row_to_row(con):
    query, keys, values = vectors(60, 16, np.float32, "q"), *(list(normal((60, 9, 16), np.float32, w)) for w in "kv")
    table(con, "t", q=(query, "FLOAT[]"), k=(keys, "FLOAT[][]"), v=(values, "FLOAT[16][]"))
    names = ("scaled_dot", "multi_head", "linear")
    expected = [
        None
        if i % 3 == 1 and i % 5 == 0
        else ruvector.attention(q, k, v, names[i % 3], **({"num_heads": 2 + 2 * (i % 2)} if i % 3 == 1 else {}))
        for i, (q, k, v) in enumerate(zip(query, keys, values))
    ]
    sql = """SELECT CASE i % 3 WHEN 1 THEN ruvector_multi_head_attention(q, k, CASE WHEN i % 5 > 0 THEN v END, 2 + 2 * (i % 2)::INTEGER)
        ELSE ruvector_attention(q, k, v, CASE i % 3 WHEN 0 THEN 'scaled_dot' ELSE 'linear' END) END FROM t ORDER BY i"""
    equal(column(con, sql), expected, np.float32)


def test_rows_of_many_sizes_come_together(con):
    """Widths and numbers of keys that differ, in more rows than a batch has, with vectors that are NULL."""
    rng = np.random.default_rng(0)
    rows = 2300
    widths, counts = rng.integers(1, 9, rows), rng.integers(1, 9, rows)
    query, key = ([rng.standard_normal(w).astype(np.float32) for w in widths] for _ in "qk")
    query[7] = key[9] = None
    table(con, "t", q=(query, "FLOAT[]"), k=(key, "FLOAT[]"))
    expected = [None if q is None or k is None else ruvector.attention_score(q, k) for q, k in zip(query, key)]
    equal(column(con, "SELECT ruvector_attention_score(q, k) FROM t ORDER BY i"), expected, np.float32)
    for wide in (widths, np.full(rows, 8)):  # of one width they are one array
        query = [rng.standard_normal(w).astype(np.float32) for w in wide]
        keys, values = ([rng.standard_normal((n, w)).astype(np.float32) for n, w in zip(counts, wide)] for _ in "kv")
        keys[3] = None
        keys[4], values[4] = keys[4][:0], values[4][:0]
        table(con, "t", q=(query, "FLOAT[]"), k=(keys, "FLOAT[][]"), v=(values, "FLOAT[][]"))
        found = column(con, "SELECT ruvector_attention(q, k, v) FROM t WHERE i <> 4 ORDER BY i")
        expected = [None if k is None else ruvector.attention(q, k, v) for q, k, v in zip(query, keys, values)]
        equal(found, expected[:4] + expected[5:], np.float32)
    assert column(con, "SELECT ruvector_attention(q, k, v) FROM t WHERE i = 4") == [[]]


def test_rows_that_are_null_are_left_out_of_lists_by_a_filter(con):
    con.execute(
        "CREATE TABLE t AS SELECT i // 3 AS g, CASE WHEN i % 3 > 0 AND i < 6 THEN [i, 1]::FLOAT[] END AS k, [i, i]::FLOAT[] AS v "
        "FROM range(9) r(i)"
    ).fetchall()
    text = "SELECT ruvector_attention([1.0, 0.0], list(k{0}), list(v{0})) FROM t GROUP BY g ORDER BY g"
    with pytest.raises(duckdb.InvalidInputException, match="keys holds a NULL vector; list.x. FILTER"):
        column(con, text.format(""))
    found = column(con, text.format(" ORDER BY v) FILTER (WHERE k IS NOT NULL"))
    query = np.array([1, 0], np.float32)
    rows = [
        (np.array([[a, 1], [b, 1]], np.float32), np.array([[a, a], [b, b]], np.float32)) for a, b in ((1, 2), (4, 5))
    ]
    equal(found, [*(ruvector.attention(query, k, v) for k, v in rows), None], np.float32)


def test_mixed_types_and_literals(con):
    """Integers and decimals count as FLOAT; one DOUBLE makes the result DOUBLE, as NumPy's promotion does."""
    q, k = np.array([0.1, 0.2, -3]), np.array([1, 2, 3])
    for sql, expected in (
        ("[0.1, 0.2, -3.0], [1, 2, 3]", ruvector.attention_score(q.astype(np.float32), k.astype(np.float32))),
        ("[0.1, 0.2, -3.0]::DOUBLE[3], [1, 2, 3]", ruvector.attention_score(q, k.astype(np.float32))),
        (
            "[0.1, 0.2, -3.0]::FLOAT[], [1, 2, 3]::DOUBLE[]",
            ruvector.attention_score(q.astype(np.float32), k.astype(float)),
        ),
    ):
        equal(column(con, f"SELECT ruvector_attention_score({sql})"), [expected], expected.dtype)


def test_nulls_nans_and_empty_lists(con):
    def one(sql):
        return con.execute(f"SELECT {sql}").fetchall()[0][0]

    assert one("ruvector_attention_score(NULL, [1.0])") is None
    assert one("ruvector_attention_score([1.0], NULL)") is None
    assert one("ruvector_attention_score([1.0], [1.0], NULL)") is None
    assert one("ruvector_softmax(NULL)") is None
    assert one("ruvector_softmax([])") == []
    assert one("ruvector_moe_route(NULL)") is None
    assert one("ruvector_attention([1.0], [], [])") == []
    assert one("ruvector_attention_scores([1.0], [])") == []
    assert one("ruvector_attention([1.0], []::FLOAT[1][], []::FLOAT[3][])") == [0, 0, 0]
    assert np.isnan(one("ruvector_attention_score(['nan'::FLOAT, 1], [1.0, 1])"))
    found = one("ruvector_attention([1.0, 0], [['nan'::FLOAT, 1], [1, 1]], [[1.0], [2.0]])")
    assert np.isnan(found).all()
    assert con.execute("SELECT ruvector_softmax(x) FROM (SELECT [1.0::FLOAT] AS x WHERE false)").fetchall() == []


@pytest.mark.parametrize(
    "sql, text",
    [
        ("ruvector_attention_score([1.0, 2.0], [1.0])", "Query and key dimensions must match: 2 vs 1"),
        ("ruvector_attention_score([1.0, NULL], [1.0, 2.0])", "query holds a NULL element"),
        ("ruvector_attention_score([1.0], [1.0], 'no_such')", "Unknown attention type: 'no_such'"),
        ("ruvector_attention_score([1.0], [1.0], options := {'heads': 2})", "has no option 'heads'"),
        ("ruvector_attention_score([1.0], [1.0], options := 5)", "options must be a struct"),
        (
            "ruvector_multi_head_attention([1.0, 2, 3], [[1.0, 2, 3]], [[1.0, 2, 3]], 2)",
            "Query dimension 3 must be divisible by num_heads 2",
        ),
        ("ruvector_multi_head_attention([1.0], [[1.0]], [[1.0]], 0)", "num_heads must be between 1 and"),
        ("ruvector_attention([1.0], [[1.0]], [[1.0], [2.0]])", "Keys and values must have same length: 1 vs 2"),
        ("ruvector_attention([1.0], [[1.0], [1.0, 2.0]], [[1.0], [2.0]])", r"keys\[1\] has dimension 2 but expected 1"),
        ("ruvector_attention([1.0], [[1.0], NULL], [[1.0], [2.0]])", "keys holds a NULL vector"),
        ("ruvector_hyperbolic_distance([1.0], [0.5])", "not less than the radius"),
        ("ruvector_hyperbolic_distance([0.1], [0.5], 0)", "curvature"),
        ("ruvector_moe_route([1.0], 4, 5)", "top_k must be between 1 and num_experts 4"),
        ("ruvector_flash_attention([1.0], [[1.0]], [[1.0]], 0)", "block_size must be at least 1"),
    ],
)
def test_errors_are_duckdbs(con, sql, text):
    with pytest.raises(duckdb.InvalidInputException, match=text):
        con.execute(f"SELECT {sql}").fetchall()
    assert con.execute("SELECT ruvector_version()").fetchall() == [(ruvector.__version__,)]


def test_arrays_and_words_as_options(con):
    query, keys, values = (normal(shape, np.float32, str(shape)) for shape in ((16,), (9, 16), (9, 8)))
    table(con, "t", q=([query], "FLOAT[]"), k=([keys], "FLOAT[][]"), v=([values], "FLOAT[][]"))
    projection = normal((4, 16), np.float64, "projection")
    for sql, expected in (
        (
            "alibi_attention(q, k, v, 2, slopes := [0.5, 0.25])",
            ruvector.alibi_attention(query, keys, values, 2, slopes=[0.5, 0.25]),
        ),
        ("linear_attention(q, k, v, 'relu')", ruvector.attention(query, keys, values, "linear", feature_map="relu")),
        (
            "local_attention(q, k, v, 4, scale := 2)",
            ruvector.attention(query, keys, values, "local", window_size=4, scale=2),
        ),
        (
            f"performer_attention(q, k, v, 4, projection := {projection.tolist()}::DOUBLE[][])",
            ruvector.attention(query, keys, values, "performer", num_features=4, projection=projection),
        ),
        ("attention(q, k, v, 'causal', {'dropout': 0.5})", ruvector.attention(query, keys, values, "causal")),
        (
            "attention(q, k, v, 'sparse', {'pattern': 'fixed', 'stride': 3})",
            ruvector.attention(query, keys, values, "sparse", pattern="fixed", stride=3),
        ),
    ):
        equal(column(con, f"SELECT ruvector_{sql} FROM t"), [expected], np.float32)


@pytest.mark.parametrize("name", [r.name for r in ruvector.attention_types() if r.name not in C_TYPES])
def test_types_that_python_composes(con, name):
    """By name, through the function of all types; a batch of rows as each alone."""
    query, keys, values = (
        list(normal((12, *shape), np.float32, name, str(shape)) * np.float32(0.1))
        for shape in ((16,), (9, 16), (9, 16))
    )
    table(con, "t", q=(query, "FLOAT[16]"), k=(keys, "FLOAT[16][]"), v=(values, "FLOAT[16][]"))
    try:
        expected = [ruvector.attention(q, k, v, name) for q, k, v in zip(query, keys, values)]
    except (TypeError, ValueError) as error:
        text = str(error).split("\n")[0]
        with pytest.raises(duckdb.InvalidInputException) as caught:
            column(con, f"SELECT ruvector_attention(q, k, v, '{name}') FROM t")
        assert type(error).__name__ in str(caught.value), text
        return
    equal(column(con, f"SELECT ruvector_attention(q, k, v, '{name}') FROM t ORDER BY i"), expected, np.float32)
