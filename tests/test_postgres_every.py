"""Every function of the PostgreSQL extension, read from its catalogue: random inputs against Python, bad ones, cancels, memory.

A function that is added fails here until it has a row in each table.
"""

import functools
import itertools
import time
from typing import NamedTuple

import numpy as np
import pytest
import ruvector
from ruvector._registry import records
from servers import floats, kinds, literal, one, same
from support import generator, normal

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = pytest.mark.sql

# Of the aggregate and the access method, whose callers have tests of their own.
INTERNAL = {f"ruvector_attention_{part}" for part in ("step", "final", "combine", "serial", "deserial", "handler")}


class Overload(NamedTuple):
    name: str
    names: tuple[str, ...]  # of arguments
    types: tuple[str, ...]


def overloads(c):
    rows = c.execute(
        "SELECT p.proname, coalesce(p.proargnames, '{}'), ARRAY(SELECT t::regtype::text FROM unnest(p.proargtypes) t), p.pronargs "
        "FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e' "
        "JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'ruvector_postgres' WHERE p.prokind = 'f' ORDER BY p.oid"
    ).fetchall()
    return [
        Overload(name, tuple(names[:count] or [f"${i}" for i in range(count)]), tuple(types))
        for name, names, types, count in rows
        if name not in INTERNAL
    ]


TYPES = {f"ruvector_{'flash' if r.name == 'flash_v2' else r.name}_attention": r for r in records()}


def kind(sql_type):
    """Of an argument of vectors; None for others."""
    return {"real[]": "array", "vector": "vector", "vector[]": "vector"}.get(sql_type)


# Values --------------------------------------------------------------------------------------------------------------


def points(name, x, curvature=1.0):
    """Rows of x inside the ball, or on the hyperboloid by their space-like part."""
    if name != "poincare" and name != "ruvector_hyperbolic_distance":
        return x
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return floats(x / (1 + length) * 0.9 / np.sqrt(abs(curvature)))


def options_of(record, rng):
    """A choice of a type's options, in Python's form."""
    heads = int(rng.choice([1, 2, 4, 8]))
    own = int(rng.choice([h for h in (1, 2, 4, 8) if heads % h == 0]))
    values = {
        "num_heads": heads,
        "num_kv_heads": own,
        "block_size": int(rng.integers(1, 100)),
        "block_size_q": int(rng.integers(0, 9)),
        "block_size_kv": int(rng.integers(0, 40)),
        "softcap": float(rng.choice([0.0, 1.5, 20.0])),
        "feature_map": str(rng.choice(["elu", "relu"])),
        "window_size": int(rng.integers(1, 50)),
        "curvature": float(rng.choice([1.0, -0.5, 2.5])),
        "space_only": True,
        "slopes": rng.random(heads).tolist(),
        "num_features": int(rng.integers(1, 40)),
        "orthogonal": bool(rng.integers(2)),
        "projection": None,
    }
    chosen = {p.name: values[p.name] for p in record.parameters if values[p.name] is not None}
    if record.name != "causal" and record.name != "cross":
        chosen["causal"] = bool(rng.integers(2))
    if record.name not in ("linear", "cross") and rng.integers(2):
        chosen["scale"] = float(rng.uniform(0.05, 2))
    # those that the shapes need stay
    needed = {"num_heads", "num_kv_heads", "curvature", "space_only", "slopes"}
    return {key: value for key, value in chosen.items() if key in needed or rng.integers(2)}


def draw_type(record, rng):
    options = options_of(record, rng)
    heads = options.get("num_heads", 1)
    own = {"grouped_query": options.get("num_kv_heads"), "multi_query": 1}.get(record.name, heads)
    width, count = 8 * int(rng.integers(1, 14)), int(rng.integers(1, 150))
    v_width = width if record.family == "hyperbolic" else own * int(rng.integers(1, 30))
    query = rng.standard_normal((int(rng.integers(1, 9)), width)).astype(np.float32)
    keys, values = (rng.standard_normal((count, w)).astype(np.float32) for w in (width // heads * own, v_width))
    return [points(record.name, x, options.get("curvature", 1.0)) for x in (query, keys, values)], options


def draw_pair(name):
    def draw(rng):
        options = {}
        if name == "ruvector_attention_score":
            options["attention_type"] = str(
                rng.choice(["scaled_dot", "multi_head", "flash", "poincare", "alibi", "linear"])
            )
        if name == "ruvector_hyperbolic_distance":
            options["curvature"] = float(rng.choice([1.0, -0.5, 2.5]))
        x = rng.standard_normal((2, 8 * int(rng.integers(1, 100)))).astype(np.float32)
        where = name if name == "ruvector_hyperbolic_distance" else options.get("attention_type")
        return [*points(where, x, options.get("curvature", 1.0))], options

    return draw


def draw_scores(rng):
    name = str(rng.choice(["scaled_dot", "multi_head", "poincare", "linear", "performer", "sliding_window"]))
    width = 8 * int(rng.integers(1, 30))
    query, keys = (
        rng.standard_normal((n, width)).astype(np.float32) for n in (int(rng.integers(1, 5)), int(rng.integers(1, 90)))
    )
    return [points(name, query), points(name, keys)], {"attention_type": name}


def draw_sliding(rng):
    size = int(rng.integers(1, 40))
    x = rng.standard_normal((int(rng.integers(1, 80)), int(rng.integers(1, 40)))).astype(np.float32)
    return [x], {"window_size": size, "stride": int(rng.integers(1, size + 1))}


def draw_route(rng):
    experts = int(rng.integers(1, 20))
    return [rng.standard_normal(int(rng.integers(1, 200))).astype(np.float32)], {
        "num_experts": experts,
        "top_k": int(rng.integers(1, experts + 1)),
    }


def route(x, num_experts, top_k):
    indices, weights = ruvector.moe_route(x, num_experts, top_k)
    return indices.tolist(), weights


# Functions of values: what is drawn, as (arrays, options), and what Python says.
VALUES = {
    "ruvector_softmax": (lambda rng: ([rng.standard_normal(int(rng.integers(1, 300))).astype(np.float32)], {}), ruvector.softmax),
    "ruvector_attention_score": (draw_pair("ruvector_attention_score"), ruvector.attention_score),
    "ruvector_attention_distance": (draw_pair("<@>"), lambda q, k: -np.float64(ruvector.attention_score(q, k))),
    "ruvector_attention_order": (draw_pair("<@>"), lambda q, k: -np.float64(ruvector.attention_score(q, k))),
    "ruvector_l2_distance": (draw_pair("<->"), None),
    "ruvector_attention_scores": (draw_scores, ruvector.attention_scores),
    "ruvector_moe_route": (draw_route, route),
    "ruvector_hyperbolic_distance": (draw_pair("ruvector_hyperbolic_distance"), ruvector.hyperbolic_distance),
    "ruvector_sliding_attention": (draw_sliding, lambda x, window_size, stride: ruvector.sliding_attention(x, window_size, stride)[2]),
    **{
        name: (
            functools.partial(draw_type, record),
            lambda q, k, v, record=record, **options: ruvector.attention(q, k, v, record.name, **options),
        )
        for name, record in TYPES.items()
    },
}  # fmt: skip
CONSTANTS = {"ruvector_version", "ruvector_isa", "ruvector_attention_types"}
SEARCHES = {"ruvector_mha_search", "ruvector_gat_search", "ruvector_cross_attention"}


def is_search(overload):
    return "regclass" in overload.types


def option(value):
    """An option as SQL."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"ARRAY[{', '.join(map(repr, value))}]::float8[]"
    return f"'{value}'" if isinstance(value, str) else repr(value)


def call(overload, arrays, options):
    """The text of a call of exactly this overload; an array may be the text of an SQL expression."""
    given = [
        x if isinstance(x, str) else literal(x if t != "vector" or x.ndim == 1 else x[0], kind(t))
        for x, t in zip(arrays, overload.types)
    ]
    # parameters of SQL-language functions have no names
    named = [f"{key} => {option(value)}" for key, value in options.items()]
    return f"{overload.name}({', '.join(given + named)})"


def found_by(c, overload, text):
    """A call's result: a value, or the second column of its rows."""
    if overload.name == "ruvector_sliding_attention":
        rows = c.execute(f"SELECT * FROM {text}").fetchall()
        assert [row[0] for row in rows] == list(range(len(rows)))
        return [row[1] for row in rows]
    return one(c, f"SELECT {text}")


def test_every_function_has_the_bits_of_python(database):
    tried = {}
    for overload in overloads(database):
        if overload.name in CONSTANTS or is_search(overload):
            continue
        draw, python = VALUES[overload.name]
        for seed in range(4):
            arrays, options = draw(generator("every", overload.name, *overload.types, seed))
            found = found_by(database, overload, call(overload, arrays, options))
            # a vector is one query
            flat = [x if t != "vector" or x.ndim == 1 else x[0] for x, t in zip(arrays, overload.types)]
            if overload.name == "ruvector_l2_distance":
                assert found == one(database, f"SELECT {literal(flat[0], 'vector')} <-> {literal(flat[1], 'vector')}")
                assert abs(found - np.linalg.norm((flat[0] - flat[1]).astype(float))) < 1e-5 * (1 + found)
                continue
            expected = python(*flat, **options)
            if overload.name == "ruvector_moe_route":
                assert found["expert_indices"] == expected[0]
                same(found["expert_weights"], expected[1])
            elif np.ndim(expected) == 0 and expected.dtype == np.float64:
                assert found == expected
            else:
                same(found, expected)
        tried[overload] = 4
    assert {o.name for o in tried} == {n for n in VALUES if database.server.has_vector or n not in ("ruvector_attention_order", "ruvector_l2_distance")}  # fmt: skip
    assert len(tried) == len([o for o in overloads(database) if o.name not in CONSTANTS and not is_search(o)])
    print(f"PostgreSQL {database.server.version}: {len(tried)} functions of values, {sum(tried.values())} calls")


def test_the_list_of_types_is_the_catalogues(database):
    rows = database.execute("SELECT * FROM ruvector_attention_types()").fetchall()
    assert rows == [(r.name, r.complexity, r.best_for) for r in records()]


@pytest.mark.parametrize("seed", range(6))
def test_every_search_has_the_bits_of_python(database, seed):
    c, rng = database, generator("searches", seed)
    count, asked, width = int(rng.integers(1, 120)), int(rng.integers(1, 12)), 16 * int(rng.integers(1, 6))
    heads, k = int(rng.choice([1, 2, 4, 8])), int(rng.integers(1, 30))
    x, queries = (rng.standard_normal((n, width)).astype(np.float32) for n in (count, asked))
    x[count // 2 :] = x[: count - count // 2]  # equal scores come by key
    edges = rng.integers(0, count, (2, 4 * count))
    node = int(edges[1, 0])
    for id_type, column in itertools.product(("bigint", "text", "uuid"), kinds(c)):
        key = {"bigint": int, "text": lambda i: f"{i:04d}", "uuid": lambda i: f"00000000-0000-0000-0000-{i:012d}"}[
            id_type
        ]
        names = [f"here.{what}_{seed}_{id_type}_{column}" for what in ("nodes", "asked", "edges")]
        sql_type = "vector" if column == "vector" else "real[]"
        for name, rows in zip(names, (x, queries)):
            c.execute(f"CREATE TABLE {name} (id {id_type} PRIMARY KEY, e {sql_type})")
            with c.cursor() as cursor:
                order = rng.permutation(len(rows)).tolist()
                cursor.executemany(
                    f"INSERT INTO {name} VALUES (%s, %s::real[])", [(key(i), rows[i].tolist()) for i in order]
                )
        c.execute(f"CREATE TABLE {names[2]} (source {id_type}, target {id_type})")
        with c.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {names[2]} VALUES (%s, %s)", [(key(a), key(b)) for a, b in edges.T.tolist()]
            )
        seen = set()
        for overload in overloads(c):
            if not is_search(overload):
                continue
            if overload.name == "ruvector_mha_search":
                if ("anyelement" in overload.types) != (id_type != "bigint"):
                    continue
                q = literal(queries[0], kind(overload.types[1]))
                cast = f", NULL::{id_type}" if id_type != "bigint" else ""
                rows = c.execute(
                    f"SELECT id, score FROM ruvector_mha_search('{names[0]}', {q}, {heads}, {k}{cast})"
                ).fetchall()
                weights = ruvector.attention_scores(queries[0], x, "multi_head", num_heads=heads)
                best = np.argsort(-weights, kind="stable")[:k]
                ids, scores = best.tolist(), weights[best]
            elif overload.name == "ruvector_gat_search":
                if overload.types[2] != id_type:
                    continue
                rows = c.execute(
                    f"SELECT * FROM ruvector_gat_search('{names[0]}', '{names[2]}', %s::{id_type}, {heads}, {k})",
                    (key(node),),
                ).fetchall()
                ids, scores = ruvector.gat_search(x, edges, node, heads, k)
                ids = ids.tolist()
            else:
                few = len(overload.types) == 6
                if few and id_type != "bigint":
                    continue
                tables = f"'{names[1]}', 'e', '{names[0]}', 'e'"
                for name in ("scaled_dot", "multi_head", "linear", "alibi"):
                    tail = (
                        f"'{name}', {k})" if few else f"'{name}') AS (query_id {id_type}, doc_id {id_type}, score real)"
                    )
                    rows = c.execute(f"SELECT * FROM ruvector_cross_attention({tables}, {tail}").fetchall()
                    ids, scores = [], []
                    for i, query in enumerate(queries):
                        weights = ruvector.attention_scores(query, x, name)
                        best = np.argsort(-weights, kind="stable")[:k] if few else np.arange(count)
                        ids += [(key(i), key(j)) for j in best.tolist()]
                        scores.append(weights[best])
                    assert [tuple(v if id_type == "bigint" else str(v) for v in row[:2]) for row in rows] == ids
                    same([row[2] for row in rows], np.concatenate(scores))
                seen.add(overload)
                continue
            assert [row[0] if id_type == "bigint" else str(row[0]) for row in rows] == [key(i) for i in ids]
            same([row[1] for row in rows], scores)
            seen.add(overload)
        assert {o.name for o in seen} == SEARCHES


# Bad arguments -------------------------------------------------------------------------------------------------------

BAD = {
    "NULL element": ("ARRAY[1,NULL]::real[]", "22004"),
    "NaN": ("'{NaN,1}'::real[]", "22000"),
    "infinity": ("'{1,Infinity}'::real[]", "22000"),
    "lower bound": ("'[0:1]={1,2}'::real[]", "2202E"),
    "three dimensions": ("'{{{1,2}}}'::real[]", "2202E"),
    "empty": ("'{}'::real[]", "22000"),
    "too wide": ("array_fill(1::real, ARRAY[16001])", "54000"),
}
BAD_MATRICES = {
    "NULL element": ("ARRAY[[1,NULL]]::real[]", "22004"),
    "NaN": ("'{{NaN,1}}'::real[]", "22000"),
    "infinity": ("'{{1,-Infinity}}'::real[]", "22000"),
    "lower bound": ("'[1:1][0:1]={{1,2}}'::real[]", "2202E"),
    "three dimensions": ("'{{{1,2}}}'::real[]", "2202E"),
    "one dimension": ("'{1,2}'::real[]", "2202E"),
    "too wide": ("array_fill(1::real, ARRAY[1, 16001])", "54000"),
}
BAD_VECTORS = {
    "NULL element": ("ARRAY['[1,2]', NULL]::vector[]", "22004"),
    "two widths": ("ARRAY['[1,2]', '[1,2,3]']::vector[]", "22000"),
    "two dimensions": ("""'{{"[1,2]"}}'::vector[]""", "2202E"),
    "lower bound": ("""'[0:0]={"[1,2]"}'::vector[]""", "2202E"),
}
# softmax: of no numbers it is empty; no embedding, so any length, bounds of its own, minus infinity
SOFTMAX_TAKES = {"empty", "lower bound", "too wide"}
MATRICES = {"keys", "values", "embeddings"}


def test_every_function_refuses_what_is_no_vector(database):
    """Each argument of vectors of each function, each mistake: its SQLSTATE, and the argument's name."""
    c, count = database, 0
    for overload in overloads(c):
        if (
            overload.name in CONSTANTS
            or overload.name in ("ruvector_attention_order", "ruvector_l2_distance")
            or is_search(overload)
        ):
            continue  # the operators <-> and <@> of mixed types are casts to vector, whose errors are pgvector's
        arrays, options = VALUES[overload.name][0](generator("bad", overload.name, 1))
        for i, (name, sql_type) in enumerate(zip(overload.names, overload.types)):
            if kind(sql_type) is None:
                continue
            null = [f"NULL::{sql_type}" if j == i else x for j, x in enumerate(arrays)]
            found = c.execute(f"SELECT * FROM {call(overload, null, options)}").fetchall()
            assert found in ([], [(None,)]), (overload, found)
            if sql_type == "vector":
                continue  # pgvector has looked at it
            bad = dict(BAD_VECTORS if sql_type == "vector[]" else BAD_MATRICES if name in MATRICES else BAD)
            if overload.name == "ruvector_softmax":
                bad = {key: value for key, value in bad.items() if key not in SOFTMAX_TAKES}
            for what, (text, state) in bad.items():
                with pytest.raises(psycopg.Error) as caught:
                    c.execute(
                        f"SELECT * FROM {call(overload, [text if j == i else x for j, x in enumerate(arrays)], options)}"
                    )
                assert caught.value.sqlstate == state, (overload, name, what, caught.value)
                assert name in str(caught.value), (overload, what, caught.value)
                count += 1
    print(f"PostgreSQL {c.server.version}: {count} calls refused")
    assert count > 250


def test_every_function_refuses_dimensions_and_heads_that_do_not_fit(database):
    c = database
    for overload in overloads(c):
        if overload.name in CONSTANTS or is_search(overload) or overload.name == "ruvector_l2_distance":
            continue
        arrays, options = VALUES[overload.name][0](generator("fit", overload.name, 1))
        if len(arrays) > 1 and overload.name != "ruvector_attention_order":
            wide = np.concatenate([arrays[1], arrays[1][..., :1]], -1)
            with pytest.raises(psycopg.Error, match="dimension") as caught:
                c.execute(f"SELECT {call(overload, [arrays[0], wide, *arrays[2:]], options)}")
            assert caught.value.sqlstate == "22000", (overload, caught.value)
        if len(arrays) == 3:
            with pytest.raises(psycopg.Error, match="Keys and values must have same length") as caught:
                more = np.concatenate([arrays[2], arrays[2][:1]])
                c.execute(f"SELECT {call(overload, [arrays[0], arrays[1], more], options)}")
            assert caught.value.sqlstate == "22000"
        if "num_heads" in overload.names:
            for heads, text in (
                (0, "num_heads must be between 1 and 1024, got 0"),
                (7, "must be divisible by num_heads 7"),
            ):
                x = normal((3, 8), np.float32, "heads")
                given = {
                    "num_heads": heads,
                    **({"num_kv_heads": heads} if "num_kv_heads" in overload.names and heads else {}),
                }
                with pytest.raises(psycopg.Error, match=text) as caught:
                    c.execute(f"SELECT {call(overload, [x, x, x], given)}")
                assert caught.value.sqlstate == "22023", (overload, caught.value)


def test_searches_refuse_what_does_not_fit(database):
    c = database
    c.execute("CREATE TABLE here.fits (id int PRIMARY KEY, e real[])")
    c.execute("INSERT INTO here.fits VALUES (1, ARRAY[1,2]), (2, ARRAY[2,1])")
    c.execute("CREATE TABLE here.ties (source int, target int)")
    c.execute("INSERT INTO here.ties VALUES (1, 2)")
    c.execute("CREATE TABLE here.two (id int, a real[], b real[])")
    c.execute("CREATE TABLE here.plain (e real[])")
    c.execute("CREATE TABLE here.mixed (id int, e real[])")
    c.execute("INSERT INTO here.mixed VALUES (1, ARRAY[1,2]), (2, ARRAY[1,2,3])")
    c.execute("CREATE TABLE here.holes (id int, e real[])")
    c.execute("INSERT INTO here.holes VALUES (1, ARRAY[1,NULL])")
    c.execute("CREATE TABLE here.infinite (id int, e real[])")
    c.execute("INSERT INTO here.infinite VALUES (1, '{1,NaN}')")
    q, s = "ARRAY[1,2]::real[]", "ruvector_mha_search"
    for text, state, message in (
        (f"{s}('here.fits', ARRAY[1,2,3]::real[], 1)", "22000", "Query and key dimensions must match: 3 vs 2"),
        (f"{s}('here.fits', {q}, 3)", "22023", "Query dimension 2 must be divisible by num_heads 3"),
        (f"{s}('here.fits', {q}, 0)", "22023", "num_heads must be between 1 and 1024, got 0"),
        (f"{s}('here.fits', {q}, 1, 0)", "22023", "k must be at least 1, got 0"),
        (f"{s}('here.fits', ARRAY[1,NULL]::real[], 1)", "22004", "query must not contain nulls"),
        (f"{s}('here.two', {q}, 1)", "42702", "more than one column of type"),
        (f"{s}('here.plain', {q}, 1)", "42703", 'neither a column "id" nor a primary key'),
        (f"{s}('here.mixed', {q}, 1)", "22000", "embeddings must have the same dimensions: 2 vs 3"),
        (f"{s}('here.holes', {q}, 1)", "22004", "embedding must not contain nulls"),
        (f"{s}('here.infinite', {q}, 1)", "22000", "NaN not allowed in embedding"),
        (f"{s}(999999999, {q}, 1)", "42P01", "does not exist"),
        ("ruvector_gat_search('here.fits', 'here.fits', 1)", "42703", "no columns for the ends of its edges"),
        ("ruvector_gat_search('here.fits', 'here.ties', 9)", "22023", "query_node_id 9 is no node"),
        ("ruvector_gat_search('here.fits', 'here.ties', 2, 0)", "22023", "num_heads must be between 1 and 1024, got 0"),
        ("ruvector_gat_search('here.fits', 'here.ties', 2, 5)", "22023", "Query dimension 2 must be divisible by num_heads 5"),
        ("ruvector_gat_search('here.fits', 'here.ties', 2, 1, -1)", "22023", "k must be at least 1, got -1"),
        ("ruvector_gat_search('here.fits', 'here.ties', 'a'::text)", "22P02", 'invalid input syntax for type integer: "a"'),
        ("ruvector_gat_search('here.mixed', 'here.ties', 2, 1)", "22000", "Query and key dimensions must match: 3 vs 2"),
        ("ruvector_cross_attention('here.fits', 'e', 'here.fits', 'e')", "42601", "a column definition list is required"),
        ("ruvector_cross_attention('here.fits', 'e', 'here.fits', 'e') AS (a int, b int)", "42804", "and a score"),
        ("ruvector_cross_attention('here.fits', 'e', 'here.fits', 'e') AS (a int, b int, c text)", "42804", "and a score"),
        ("ruvector_cross_attention('here.fits', 'e', 'here.fits', 'e') AS (a uuid, b int, c real)", "42804", "has type integer, not uuid"),
        ("ruvector_cross_attention('here.fits', 'e', 'here.fits', 'e', 'cross', 0)", "22023", "k must be at least 1, got 0"),
        ("ruvector_cross_attention('here.fits', 'x', 'here.fits', 'e', 'cross', 1)", "42703", 'column "x"'),
        ("ruvector_cross_attention('here.fits', 'id', 'here.fits', 'e', 'cross', 1)", "42804", "has type integer, not vector"),
        ("ruvector_cross_attention('here.fits', 'e', 'here.fits', 'e', 'nope', 1)", "42704", "Unknown attention type"),
        ("ruvector_cross_attention('here.mixed', 'e', 'here.fits', 'e', 'cross', 1)", "22000", "dimensions must match: 3 vs 2"),
    ):  # fmt: skip
        with pytest.raises(psycopg.Error) as caught:
            c.execute(f"SELECT * FROM {text}")
        assert (caught.value.sqlstate, message in str(caught.value)) == (state, True), (text, str(caught.value))
    for text in (
        f"{s}(NULL, {q}, 1)",
        f"{s}('here.fits', NULL::real[], 1)",
        "ruvector_gat_search('here.fits', NULL, 1)",
        "ruvector_cross_attention('here.fits', NULL, 'here.fits', 'e', 'cross', 1)",
    ):
        assert c.execute(f"SELECT * FROM {text}").fetchall() == []


# Cancels and memory --------------------------------------------------------------------------------------------------

ROWS = "(SELECT sum({}) FROM many a, many b)"
THREE = "(SELECT m FROM big), (SELECT m FROM big), (SELECT m FROM big)"
# What each function does for seconds. What it gives back is not printed: PostgreSQL turns an array into text without looking up.
LONG = {
    "ruvector_version": "(SELECT count(*) FROM many a, many b WHERE length(ruvector_version()) + a.id + b.id > 0)",
    "ruvector_isa": "(SELECT count(*) FROM many a, many b WHERE length(ruvector_isa()) + a.id + b.id > 0)",
    "ruvector_attention_types": "(SELECT count(*) FROM many a, many b, ruvector_attention_types() t WHERE a.id + b.id >= 0)",
    "ruvector_softmax": ROWS.format("cardinality(ruvector_softmax(a.x))"),
    "ruvector_attention_score": ROWS.format("ruvector_attention_score(a.x, b.x)"),
    "ruvector_attention_distance": ROWS.format("a.x <@> b.x"),
    "ruvector_attention_order": ROWS.format("a.x::vector <@> b.x"),
    "ruvector_l2_distance": ROWS.format("a.x::vector <-> b.x"),
    "ruvector_hyperbolic_distance": ROWS.format("ruvector_hyperbolic_distance(a.y, b.y)"),
    "ruvector_attention_scores": "cardinality(ruvector_attention_scores((SELECT h FROM big), (SELECT h FROM big)))",
    "ruvector_moe_route": "ruvector_moe_route(array_fill(1::real, ARRAY[16000]), 65536)",
    "ruvector_sliding_attention": "(SELECT count(*) FROM ruvector_sliding_attention((SELECT m FROM big), 20000, 1))",
    "ruvector_mha_search": "(SELECT count(*) FROM many a, LATERAL ruvector_mha_search('nodes', a.x, 8, 5))",
    "ruvector_gat_search": "(SELECT count(*) FROM many a, LATERAL ruvector_gat_search('nodes', 'ties', a.id % 3, 8, 5))",
    "ruvector_cross_attention": "(SELECT count(*) FROM ruvector_cross_attention('many', 'x', 'many', 'x', 'scaled_dot', 5))",
    **{name: f"cardinality({name}({THREE}))" for name in TYPES if name != "ruvector_cross_attention"},
    "ruvector_linear_attention": "(SELECT sum(cardinality(ruvector_linear_attention(m, m, m, causal => true))) FROM big, generate_series(1, 100))",
    "ruvector_performer_attention": f"cardinality(ruvector_performer_attention({THREE}, 4096))",
    "ruvector_random_feature_attention": f"cardinality(ruvector_random_feature_attention({THREE}, 4096))",
    "ruvector_poincare_attention": f"cardinality(ruvector_poincare_attention({THREE}))".replace("SELECT m", "SELECT b"),
    "ruvector_lorentz_attention": f"cardinality(ruvector_lorentz_attention({THREE}, space_only => true))",
    "ruvector_grouped_query_attention": f"cardinality(ruvector_grouped_query_attention({THREE}, 8, 8))",
    "ruvector_multi_query_attention": f"cardinality(ruvector_multi_query_attention({THREE}, 1))",
    "ruvector_sliding_window_attention": f"cardinality(ruvector_sliding_window_attention({THREE}, 20000))",
    "ruvector_local_attention": f"cardinality(ruvector_local_attention({THREE}, 20000))",
}  # fmt: skip
# Other ways through them, and the aggregate.
LONG_TOO = (
    "cardinality(ruvector_attention_scores((SELECT h FROM big), (SELECT h FROM big), 'multi_head'))",
    "cardinality(ruvector_attention_scores((SELECT h[1:5000] FROM big), (SELECT h FROM big), 'performer'))",
    f"cardinality(ruvector_cross_attention({THREE}))",
    "cardinality((SELECT ruvector_attention(ARRAY(SELECT 1::real FROM generate_series(1, 64)), a.x, b.x) FROM many a, many b))",
)


@pytest.fixture(scope="module")
def large(server):
    """Tables with which a call takes seconds."""
    with server.database() as c:
        c.server = server
        sequence = (
            "(SELECT array_agg(r) FROM (SELECT (SELECT array_agg(({} * sin(i * j))::real) FROM generate_series(1, 64) j) r "
            "FROM generate_series(1, 30000) i) t)"
        )
        c.execute(
            f"CREATE TABLE big AS SELECT m, b, m[1:11000][1:64] AS h FROM (SELECT {sequence.format(1)} AS m, {sequence.format(0.1)} AS b) t"
        )
        c.execute(
            "CREATE TABLE many AS SELECT i AS id, (SELECT array_agg(sin(i * j)::real) FROM generate_series(1, 64) j) x, "
            "(SELECT array_agg((0.1 * sin(i * j))::real) FROM generate_series(1, 64) j) y FROM generate_series(0, 20000) i"
        )
        c.execute("CREATE VIEW nodes AS SELECT id, x FROM many")
        c.execute("CREATE TABLE ties AS SELECT i % 20000 AS source, i % 3 AS target FROM generate_series(1, 300000) i")
        c.execute("ANALYZE")
        yield c


def late(c, text):
    """Seconds from the end of the allowed time to the error; the least of three, as a busy machine gives its turn late."""
    least = 1.0
    for _ in range(3):
        c.execute("SET statement_timeout = 150")
        start = time.perf_counter()
        with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
            c.execute(f"SELECT {text}")
        least = min(least, time.perf_counter() - start - 0.15)
        c.execute("RESET statement_timeout")
        if least < 0.1:
            break
    return least


def test_every_function_hears_a_statement_timeout(large):
    names = {o.name for o in overloads(large)}
    assert names <= set(LONG)
    found = {name: late(large, LONG[name]) for name in sorted(names)}
    found |= {text: late(large, text) for text in LONG_TOO}
    print(f"PostgreSQL {large.server.version}, ms after the timeout:", {n: round(1000 * s) for n, s in found.items()})
    assert max(found.values()) < 0.1, found


def test_interrupts_that_end_nothing_do_not_end_a_call(large):
    """As a look every 10 ms whether the client is still there."""
    large.execute("SET client_connection_check_interval = '10ms'")
    call = "SELECT cardinality(ruvector_scaled_dot_attention((SELECT m[1:6000][1:64] FROM big), (SELECT m FROM big), (SELECT m FROM big)))"
    start = time.perf_counter()
    assert one(large, call) == 6000 * 64
    assert time.perf_counter() - start > 0.05  # so that it was looked at
    large.execute("RESET client_connection_check_interval")


SMALL = {
    "ruvector_mha_search": "ruvector_mha_search('few', ARRAY[i, 1]::real[], 1, 3)",
    "ruvector_gat_search": "ruvector_gat_search('few', 'few_ties', i % 3, 1, 3)",
    "ruvector_cross_attention": "ruvector_cross_attention('few', 'x', 'few', 'x', CASE WHEN i > 0 THEN 'cross' END, 2)",
    "ruvector_sliding_attention": "ruvector_sliding_attention(ARRAY[ARRAY[i, 1], ARRAY[2, i]]::real[], 2, 1)",
}


@pytest.mark.parametrize("name", SMALL)
def test_calls_in_one_statement_leave_nothing(database, name):
    """What the server holds at the end of a statement does not depend on how many calls it had."""
    c = database
    c.execute("SET search_path = here, public")
    c.execute("CREATE TABLE IF NOT EXISTS few AS SELECT i AS id, ARRAY[i, 2]::real[] AS x FROM generate_series(0, 5) i")
    # of a table: the rows of generate_series would be held
    c.execute("CREATE TABLE IF NOT EXISTS numbers AS SELECT i FROM generate_series(1, 10000) i")
    c.execute("CREATE TABLE IF NOT EXISTS few_ties AS SELECT i AS source, i % 3 AS target FROM generate_series(0, 5) i")

    def held(calls):
        return c.execute(
            f"SELECT (SELECT count(*) FROM numbers, LATERAL {SMALL[name]} s WHERE i <= {calls}), "
            "(SELECT sum(total_bytes) FROM pg_backend_memory_contexts)"
        ).fetchone()[1]

    held(10)
    found = [held(calls) for calls in (10, 1000, 10000)]
    c.execute("RESET search_path")
    assert max(found) - min(found) < 16 * 1024, found
