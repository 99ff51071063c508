"""The PostgreSQL extension over tables: searches, names and rights that are none, the index, crashes."""

import time

import numpy as np
import pytest
import ruvector
from servers import Server, floats, install, kinds, literal, one, same
from support import normal

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = pytest.mark.sql

# Searches ---------------------------------------------------------------------------------------------------------------

ODD = 'we"ird; drop table secret; --'


@pytest.mark.parametrize("id_type", ["smallint", "integer", "bigint", "uuid", "text"])
def test_searches_take_keys_of_any_type(database, id_type):
    c, name = database, f"here.nodes_{id_type}"
    make = (
        (lambda i: f"00000000-0000-0000-0000-{i:012d}")
        if id_type == "uuid"
        else (lambda i: f"k{i:05d}")
        if id_type == "text"
        else int
    )
    x, edges = normal((40, 16), np.float32, "nodes"), np.random.default_rng(0).integers(0, 40, (2, 300))
    c.execute(f"CREATE TABLE {name} (id {id_type}, x {'vector' if c.server.has_vector else 'real[]'})")
    c.execute(f"CREATE TABLE {name}_edges (src {id_type}, dst {id_type})")
    with c.cursor() as cursor:
        order = np.random.default_rng(1).permutation(40)
        cursor.executemany(
            f"INSERT INTO {name} VALUES (%s, %s::real[])", [(make(i), x[i].tolist()) for i in order.tolist()]
        )
        cursor.executemany(
            f"INSERT INTO {name}_edges VALUES (%s, %s)", [(make(a), make(b)) for a, b in edges.T.tolist()]
        )
    c.execute(f"INSERT INTO {name} VALUES ({'NULL' if id_type != 'text' else 'NULL'}, NULL)")
    whole = id_type in ("smallint", "integer", "bigint")
    q, text = normal(16, np.float32, "search"), lambda i: i if whole else str(i)
    for kind in kinds(c):
        rows = c.execute(
            f"SELECT * FROM ruvector_mha_search('{name}', {literal(q, kind)}, 4, 7{'' if whole else f', NULL::{id_type}'})"
        ).fetchall()
        weights = ruvector.attention_scores(q, x, "multi_head", num_heads=4)
        best = np.argsort(-weights, kind="stable")[:7]
        assert [text(row[0]) for row in rows] == [make(i) for i in best.tolist()]
        same([row[1] for row in rows], weights[best])
    if not whole:
        with pytest.raises(psycopg.Error, match="has type"):
            c.execute(f"SELECT * FROM ruvector_mha_search('{name}', {literal(q, 'array')})")
    rows = c.execute(
        f"SELECT * FROM ruvector_gat_search('{name}', '{name}_edges', %s::{'bigint' if whole else id_type}, 2, 6)",
        (make(3),),
    ).fetchall()
    ids, scores = ruvector.gat_search(x, edges, 3, 2, 6)
    assert [text(row[0]) for row in rows] == [make(i) for i in ids.tolist()]
    same([row[1] for row in rows], scores)
    with pytest.raises(psycopg.Error, match="is no node"):
        c.execute(
            f"SELECT * FROM ruvector_gat_search('{name}', '{name}_edges', %s::{'bigint' if whole else id_type})",
            (make(99),),
        )
    rows = c.execute(
        f"SELECT * FROM ruvector_cross_attention('{name}', 'x', '{name}', 'x') AS (query_id {id_type}, doc_id {id_type}, score real)"
    ).fetchall()
    assert [(text(a), text(b)) for a, b, _ in rows] == [(make(i), make(j)) for i in range(40) for j in range(40)]
    same(np.reshape([row[2] for row in rows], (40, 40)), floats([ruvector.attention_scores(row, x) for row in x]))
    if whole:
        rows = c.execute(
            f"SELECT * FROM ruvector_cross_attention('{name}', 'x', '{name}', 'x', 'multi_head', 3)"
        ).fetchall()
        assert len(rows) == 120
        for i in range(40):
            weights = ruvector.attention_scores(x[i], x, "multi_head")
            best = np.argsort(-weights, kind="stable")[:3]
            assert [row[1] for row in rows if row[0] == i] == best.tolist()


def test_names_are_quoted(database):
    c, table = database, '"' + ODD.replace('"', '""') + '"'
    c.execute(f'CREATE TABLE here.{table} ("Id "" x" int PRIMARY KEY, "em"";bed" real[])')
    c.execute(f"INSERT INTO here.{table} VALUES (1, ARRAY[1,2]), (2, ARRAY[2,1])")
    quoted = ("here." + table).replace("'", "''")
    assert len(c.execute(f"SELECT * FROM ruvector_mha_search('{quoted}', ARRAY[1.0,2.0], 1)").fetchall()) == 2
    assert (
        len(
            c.execute(
                f"SELECT * FROM ruvector_cross_attention('{quoted}', 'em\";bed', '{quoted}', 'em\";bed', 'cross', 5)"
            ).fetchall()
        )
        == 4
    )


# What must not be possible ----------------------------------------------------------------------------------------------

TABLES = (
    "docs; DROP TABLE here.secret", "docs UNION SELECT * FROM here.secret", "docs--", "docs/**/", "(SELECT 1)", "docs, here.secret",
    "docs WHERE true", "'docs'", "docs'; SELECT 1; --", "pg_sleep(1)", "docs\\", "\"docs", "docs\"; DROP TABLE here.secret; --",
    "here.docs AS t, here.secret AS s", "ONLY here.docs", "here.docs TABLESAMPLE SYSTEM (1)", "lateral here.docs", "$1", "1", "",
)  # fmt: skip
COLUMNS = (
    "x FROM here.secret; --", "x, secret", "(SELECT s FROM here.secret)", "x::text", "\"x\"", "x;DROP TABLE here.secret", "ctid",
    "tableoid", "xmin", "*", "", "X", "x ", "here.docs.x", "'x'", "x -- ", "x /* */", "nothing", "id", "s",
)  # fmt: skip


def test_probes_of_names_privileges_and_row_security(server):
    """Twenty names of tables, twenty of columns, and a role without rights, through every search."""
    with server.database() as c:
        c.execute("CREATE SCHEMA here")
        c.execute("CREATE TABLE here.docs (id int PRIMARY KEY, x real[], s text, owner text DEFAULT 'postgres')")
        c.execute("CREATE TABLE here.edges (source int, target int)")
        c.execute("CREATE TABLE here.secret (id int PRIMARY KEY, x real[])")
        c.execute("INSERT INTO here.docs VALUES (1, ARRAY[1,2]), (2, ARRAY[2,1])")
        c.execute("INSERT INTO here.secret VALUES (7, ARRAY[1,2])")
        c.execute("INSERT INTO here.edges VALUES (1, 2)")
        probes = []
        q = "ARRAY[1,2]::real[]"
        for name in TABLES:
            probes += [
                (f"SELECT * FROM ruvector_mha_search(%s, {q}, 1)", (name,)),
                ("SELECT * FROM ruvector_gat_search(%s, 'here.edges', 2::bigint, 1)", (name,)),
                ("SELECT * FROM ruvector_gat_search('here.docs', %s, 2::bigint, 1)", (name,)),
                ("SELECT * FROM ruvector_cross_attention(%s, 'x', 'here.docs', 'x', 'cross', 1)", (name,)),
            ]
        for column in COLUMNS:
            probes.append(
                ("SELECT * FROM ruvector_cross_attention('here.docs', %s, 'here.docs', 'x', 'cross', 1)", (column,))
            )
            probes.append(
                ("SELECT * FROM ruvector_cross_attention('here.docs', 'x', 'here.docs', %s, 'cross', 1)", (column,))
            )
        for query, values in probes:
            with pytest.raises(psycopg.Error):
                c.execute(query, values)
        assert len(probes) >= 50
        assert one(c, "SELECT count(*) FROM here.secret") == 1

        c.execute("DROP ROLE IF EXISTS reader")
        c.execute("CREATE ROLE reader LOGIN")
        c.execute("GRANT USAGE ON SCHEMA here TO reader")
        c.execute("GRANT SELECT ON here.docs, here.edges TO reader")
        c.execute("ALTER TABLE here.docs ENABLE ROW LEVEL SECURITY")
        c.execute("CREATE POLICY own ON here.docs USING (owner = current_user)")
        c.execute("INSERT INTO here.docs VALUES (3, ARRAY[5,5], NULL, 'reader')")
        with server.connect(c.info.dbname, "reader") as r:
            for query in (
                f"SELECT * FROM ruvector_mha_search('here.secret', {q}, 1)",
                "SELECT * FROM ruvector_gat_search('here.docs', 'here.secret', 1::bigint, 1)",
                "SELECT * FROM ruvector_gat_search('here.secret', 'here.edges', 1::bigint, 1)",
                "SELECT * FROM ruvector_cross_attention('here.secret', 'x', 'here.docs', 'x', 'cross', 1)",
                "SELECT * FROM ruvector_cross_attention('here.docs', 'x', 'here.secret', 'x', 'cross', 1)",
            ):
                with pytest.raises(psycopg.errors.Error) as caught:
                    r.execute(query)
                assert caught.value.sqlstate in ("42501", "42703"), caught.value
            assert r.execute(f"SELECT id FROM ruvector_mha_search('here.docs', {q}, 1)").fetchall() == [(3,)]
            assert r.execute(
                "SELECT query_id, doc_id FROM ruvector_cross_attention('here.docs', 'x', 'here.docs', 'x', 'cross', 9)"
            ).fetchall() == [(3, 3)]
            with pytest.raises(psycopg.Error, match="is no node"):
                r.execute("SELECT * FROM ruvector_gat_search('here.docs', 'here.edges', 2::bigint, 1)")


def test_rights_to_columns_and_policies_that_may_not_be_left_out(server):
    with server.database() as c:
        c.execute("CREATE SCHEMA here")
        c.execute("CREATE TABLE here.docs (id int PRIMARY KEY, x real[], s text)")
        c.execute("CREATE TABLE here.edges (source int, target int)")
        c.execute("INSERT INTO here.docs VALUES (1, ARRAY[1,2]), (2, ARRAY[2,1])")
        c.execute("INSERT INTO here.edges VALUES (1, 2)")
        c.execute("CREATE VIEW here.open AS SELECT id, x FROM here.docs WHERE id = 1")
        c.execute("DROP ROLE IF EXISTS column_reader")
        c.execute("CREATE ROLE column_reader LOGIN")
        c.execute("GRANT USAGE ON SCHEMA here TO column_reader")
        c.execute("GRANT SELECT (id, s) ON here.docs TO column_reader")
        c.execute("GRANT SELECT (source) ON here.edges TO column_reader")
        searches = (
            "ruvector_mha_search('here.docs', ARRAY[1,2]::real[], 1)",
            "ruvector_gat_search('here.docs', 'here.edges', 2::bigint, 1)",
            "ruvector_cross_attention('here.docs', 'x', 'here.docs', 'x', 'cross', 1)",
        )
        with server.connect(c.info.dbname, "column_reader") as r:
            for search in (*searches, "ruvector_mha_search('here.open', ARRAY[1,2]::real[], 1)"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    r.execute(f"SELECT * FROM {search}")
            c.execute("GRANT SELECT ON here.open TO column_reader")  # a view gives what its owner may read
            found = r.execute("SELECT id FROM ruvector_mha_search('here.open', ARRAY[1,2]::real[], 1)").fetchall()
            assert found == [(1,)]
            c.execute("GRANT SELECT ON here.docs, here.edges TO column_reader")
            assert all(len(r.execute(f"SELECT * FROM {search}").fetchall()) > 0 for search in searches)
            c.execute("ALTER TABLE here.docs ENABLE ROW LEVEL SECURITY")
            r.execute("SET row_security = off")
            for search in searches:
                with pytest.raises(psycopg.Error, match="affected by row-level security|would be affected"):
                    r.execute(f"SELECT * FROM {search}")


def test_operators_and_types_of_a_callers_schema_are_not_run(server):
    """First in the path: comparisons of every kind of key, and types of the names that queries cast to."""
    with server.database() as c:
        c.execute("CREATE SCHEMA evil")
        for key in ("int4", "int8", "text", "uuid"):
            c.execute(
                f"CREATE FUNCTION evil.caught(pg_catalog.{key}, pg_catalog.{key}) RETURNS boolean LANGUAGE plpgsql "
                "AS $$ BEGIN RAISE EXCEPTION 'caught'; END $$"
            )
            for name in ("=", "<", ">", "<>"):
                c.execute(
                    f"CREATE OPERATOR evil.{name} (LEFTARG = pg_catalog.{key}, RIGHTARG = pg_catalog.{key}, FUNCTION = evil.caught)"
                )
        for name in ("int4", "int8", "text", "uuid", "float4"):
            c.execute(f"CREATE TYPE evil.{name} AS (x pg_catalog.text)")
        for key, value in (
            ("int4", "%s"),
            ("int8", "%s"),
            ("text", "%s::text"),
            ("uuid", "lpad(%s::text, 32, '0')::uuid"),
        ):
            c.execute(
                f"CREATE TABLE public.n_{key} AS SELECT {value % 'i'} AS id, ARRAY[i, 1]::real[] AS x FROM generate_series(1, 3) i"
            )
            c.execute(
                f"CREATE TABLE public.e_{key} AS SELECT {value % 'i'} AS source, {value % '1'} AS target FROM generate_series(1, 3) i"
            )
            c.execute("SET search_path = evil, pg_catalog, public")
            with pytest.raises(psycopg.Error, match="caught"):
                c.execute(f"SELECT id FROM n_{key} WHERE id = id")
            kind = "int8" if key == "int4" else key
            given = f"(SELECT target FROM e_{key} LIMIT 1)::pg_catalog.{kind}"
            for search in (
                f"ruvector_mha_search('n_{key}', ARRAY[1, 2]::real[], 1, 2, NULL::pg_catalog.{kind})",
                f"ruvector_gat_search('n_{key}', 'e_{key}', {given}, 1, 2)",
                f"ruvector_cross_attention('n_{key}', 'x', 'n_{key}', 'x') AS (a pg_catalog.{kind}, b pg_catalog.{kind}, c real)",
            ):
                assert len(c.execute(f"SELECT * FROM {search}").fetchall()) >= 2
            c.execute("RESET search_path")


# The index --------------------------------------------------------------------------------------------------------------


def indexed(server, count, width=32):
    if not server.has_vector:
        pytest.skip("PostgreSQL 15 of Debian has no pgvector")
    c = server.database()
    c.execute(f"CREATE TABLE t (id int PRIMARY KEY, e vector({width}))")
    x = normal((count, width), np.float32, "indexed")
    with c.cursor().copy("COPY t FROM STDIN") as copy:
        for i, row in enumerate(x):
            copy.write_row((i, "[" + ",".join(repr(float(v)) for v in row) + "]"))
    c.execute("SET enable_seqscan = off")  # a table this small is read as fast
    return c, x


def test_index_orders_by_attention(server):
    c, x = indexed(server, 3000)
    with c:
        c.execute(
            "CREATE INDEX t_e ON t USING ruvector_attention (e) WITH (attention_type = 'flash', num_heads = 4, head_dim = 8, m = 16)"
        )
        c.execute("ANALYZE t")
        queries = normal((20, 32), np.float32, "queries")
        recall = {}
        for ef in (10, 40, 200, 1000):
            c.execute(f"SET hnsw.ef_search = {ef}")
            hits = 0
            for q in queries:
                query = f"SELECT id FROM t ORDER BY e <@> {literal(q, 'array')} LIMIT 10"
                plan = str(c.execute(f"EXPLAIN {query}").fetchall())
                assert "Index Scan using t_e" in plan, plan
                exact = np.argsort(-(x.astype(float) @ q))[:10]
                hits += len({row[0] for row in c.execute(query).fetchall()} & set(exact.tolist()))
            recall[ef] = hits / 200
        print(f"recall@10 by ef_search: {recall}")
        assert recall[1000] >= 0.99 and recall[200] >= 0.9 and recall[10] <= recall[1000]
        q = literal(queries[0], "vector")
        best = one(c, f"SELECT id FROM t ORDER BY e <@> {q} LIMIT 1")
        c.execute("DELETE FROM t WHERE id = %s", (best,))
        assert one(c, f"SELECT id FROM t ORDER BY e <@> {q} LIMIT 1") != best
        c.execute(f"INSERT INTO t VALUES (100000, ({q}))")
        far = one(c, f"SELECT id FROM t ORDER BY e <#> {q} DESC LIMIT 1")
        c.execute(f"UPDATE t SET e = {q} + {q} WHERE id = {far}")
        assert one(c, f"SELECT id FROM t ORDER BY e <@> {q} LIMIT 1") == far
        c.execute(f"DELETE FROM t WHERE id = {far}")
        c.execute("VACUUM t")
        c.execute("REINDEX INDEX t_e")
        assert one(c, f"SELECT id FROM t ORDER BY e <@> {q} LIMIT 1") == 100000
        c.execute("UPDATE t SET id = 100001 WHERE id = 100000")
        assert one(c, f"SELECT id FROM t ORDER BY e <@> {q} LIMIT 1") == 100001
        for options, text in (
            ("num_heads = 5", "Query dimension 32 must be divisible by num_heads 5"),
            ("num_heads = 4, head_dim = 4", r"num_heads 4 \* head_dim 4 must be the dimensions of the column, 32"),
            ("head_dim = 5", "head_dim 5 must divide"),
            ("attention_type = 'nope'", "Unknown attention type"),
            ("attention_type = 'poincare'", "does not order keys by inner products"),
            ("lists = 3", "unrecognized parameter"),
            ("m = 1", "out of bounds"),
        ):
            with pytest.raises(psycopg.Error, match=text):
                c.execute(f"CREATE INDEX ON t USING ruvector_attention (e) WITH ({options})")
        c.execute("UPDATE pg_extension SET extversion = '0.7.0' WHERE extname = 'vector'")
        with (
            server.connect(c.info.dbname) as other,
            pytest.raises(psycopg.Error, match="need pgvector 0.8, this database has 0.7.0"),
        ):
            other.execute("CREATE INDEX ON t USING ruvector_attention (e)")
        with server.connect(c.info.dbname) as other:
            for use in (
                f"INSERT INTO t VALUES (-1, {q})",
                f"SELECT id FROM t ORDER BY e <@> {q} LIMIT 1",
                "REINDEX INDEX t_e",
            ):
                with pytest.raises(psycopg.Error, match="need pgvector 0.8, this database has 0.7.0"):
                    other.execute(use)
            other.execute("DROP INDEX t_e")
            other.execute(f"INSERT INTO t VALUES (-1, {q})")


def test_l2_operator_on_arrays_uses_an_index(server):
    c, x = indexed(server, 2000)
    with c:
        c.execute("CREATE INDEX t_l2 ON t USING hnsw (e vector_l2_ops)")
        for query in (f"e <-> {literal(x[5], 'array')}", f"{literal(x[5], 'array')} <-> e"):
            call = f"SELECT id FROM t ORDER BY {query} LIMIT 1"
            assert "Index Scan using t_l2" in str(c.execute(f"EXPLAIN {call}").fetchall())
            assert one(c, call) == 5


def test_dumps_restore_pgvector_first(server):
    if not server.has_vector:
        pytest.skip("PostgreSQL 15 of Debian has no pgvector")
    with server.database() as c:
        assert one(c, "SELECT count(*) FROM pg_depend d JOIN pg_extension a ON a.oid = d.objid JOIN pg_extension b ON b.oid = d.refobjid "
                      "WHERE a.extname = 'ruvector_postgres' AND b.extname = 'vector' AND d.deptype = 'n'") == 1  # fmt: skip


@pytest.mark.slow
def test_no_acknowledged_row_is_lost_when_the_server_is_killed():
    """25 crashes while rows are inserted: those that were acknowledged are there, and the index has an entry for each row and no
    other: VACUUM reads the whole index and counts them. (A graph may hold an entry that no path leads to, without a crash too.)"""
    pg_config, reason = install(16)
    if pg_config is None:
        pytest.skip(reason)
    rng = np.random.default_rng(0)
    with Server(16, pg_config, fsync=True) as server:
        with server.database() as c:
            name = c.info.dbname
            c.execute("CREATE TABLE t (id int PRIMARY KEY, e vector(16))")
            c.execute("CREATE INDEX t_e ON t USING ruvector_attention (e)")
            c.execute("ALTER TABLE t SET (autovacuum_enabled = off)")
        done = 0
        for cycle in range(25):
            acknowledged = done
            with_rows = server.connect(name)
            deadline = time.perf_counter() + rng.uniform(0.05, 0.4)
            while time.perf_counter() < deadline:
                x = rng.standard_normal(16)
                with_rows.execute(
                    "INSERT INTO t VALUES (%s, %s::real[])", (acknowledged, (x / np.linalg.norm(x)).tolist())
                )
                acknowledged += 1
            server.kill()
            with_rows.close()
            server.start()
            with server.connect(name) as c:
                present = {row[0] for row in c.execute("SELECT id FROM t").fetchall()}
                assert present >= set(range(acknowledged)) and len(present) <= acknowledged + 1, cycle
                c.execute("SET enable_seqscan = off")
                c.execute("SET hnsw.ef_search = 1000")
                c.execute("SET hnsw.iterative_scan = relaxed_order")
                c.execute("SET hnsw.max_scan_tuples = 1000000")
                reached = c.execute("SELECT id FROM t ORDER BY e <@> (SELECT e FROM t WHERE id = 0)").fetchall()
                assert len(reached) == len({row[0] for row in reached}) and {row[0] for row in reached} <= present
                assert len(reached) >= 0.99 * len(present), (cycle, len(reached), len(present))
                for i in rng.integers(0, acknowledged, 10).tolist():
                    found = c.execute(
                        "SELECT id FROM t ORDER BY e <@> (SELECT e FROM t WHERE id = %s) LIMIT 20", (i,)
                    ).fetchall()
                    exact = c.execute(
                        "SELECT id FROM t ORDER BY ruvector_attention_score(e, (SELECT e FROM t WHERE id = %s)) DESC LIMIT 1",
                        (i,),
                    ).fetchone()
                    assert exact in found, (cycle, i)
                # entries are counted where a dead row makes VACUUM go through them
                c.execute("INSERT INTO t SELECT -1, e FROM t WHERE id = 0")
                c.execute("DELETE FROM t WHERE id = -1")
                c.execute("VACUUM (INDEX_CLEANUP ON) t")
                entries = c.execute("SELECT reltuples FROM pg_catalog.pg_class WHERE relname = 't_e'").fetchone()
                assert entries == (len(present),), (cycle, entries, len(present))
                done = max(present) + 1
