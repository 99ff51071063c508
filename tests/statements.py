"""Every SQL statement of the project's two SQL documents, the tables it needs, and what must come out.

The documents are the usage guide and the integration plan. A statement stands here as it is written there. Where an engine
cannot parse it, or it names columns of no table, `forms` has the nearest legal form for that engine, and `why` the reason;
None means that the engine has no such thing at all. An engine's runner makes the tables of a scene, runs its statements in
order, fills the tables that a statement creates, and hands the rows to the statement's check: values are compared with the
same arrays in Python, bit for bit in float32.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import ruvector
from support import normal

ENGINES = ("duckdb", "postgres")


@dataclass(frozen=True)
class Table:
    """Columns as ``(name, kind)`` and rows of Python values and arrays.

    Kinds: "int", "text", "json" (a dict), "vector" (a float32 vector of one width; the engine's type for embeddings), "floats"
    (an array of float32), "matrix" (rows of float32), "vectors" (an array of "vector").
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple, ...]

    def column(self, name):
        """A column: an array where its rows are of one shape, else a list."""
        at = [column for column, _ in self.columns].index(name)
        values = [row[at] for row in self.rows]
        return np.stack(values) if len({np.shape(value) for value in values}) == 1 and np.shape(values[0]) else values


@dataclass(frozen=True)
class Statement:
    """One statement.

    `check(rows, tables, fetch)` gets the rows, the scene's tables by name, and a function that runs a query that every engine
    understands. `error` is the text of an error that must come instead. `fills` names the table that the statement creates:
    its rows are then loaded. `vectors`: needs columns of pgvector's type, or its operators, in PostgreSQL.
    """

    name: str
    text: str
    check: Callable | None = None
    forms: Mapping[str, str | None] = field(default_factory=dict)
    why: str = ""
    error: str | None = None
    fills: str | None = None
    vectors: bool = False

    def form(self, engine):
        """The SQL for an engine, or None."""
        return self.forms.get(engine, self.text)


@dataclass(frozen=True)
class Scene:
    """Statements that belong together, and the tables that are there before the first of them."""

    name: str
    document: str
    statements: tuple[Statement, ...]
    tables: tuple[Table, ...] = ()
    loaded: tuple[Table, ...] = ()  # into tables that statements create

    @property
    def data(self):
        """All tables by name."""
        return {table.name: table for table in (*self.tables, *self.loaded)}


# Values ---------------------------------------------------------------------------------------------------------------


def numbers(value):
    """A list, or the text that PostgreSQL's drivers may give for one, as float32."""
    if isinstance(value, str):
        value = json.loads(value.replace("{", "[").replace("}", "]"))
    return np.asarray(value, np.float32)


def same(found, expected):
    """Equality of every bit, in float32."""
    found, expected = numbers(found), np.asarray(expected)
    assert expected.dtype == np.float32
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32)), (found, expected)


def f32(values):
    return np.asarray(values, np.float32)


def routing(value):
    """Experts and weights, from JSON or a struct."""
    value = json.loads(value) if isinstance(value, str) else value
    return list(value["expert_indices"]), value["expert_weights"]


def ranked(rows, expected, limit):
    """Rows (key, ..., score) are the `limit` best of the dict `expected`, best first; every score has the bits of Python's."""
    scores = [row[-1] for row in rows]
    assert len(rows) == min(limit, len(expected))
    same(scores, f32([expected[row[0]] for row in rows]))
    best = sorted(expected, key=lambda key: -expected[key])[:limit]
    assert [row[0] for row in rows] == best


def vectors(count, width, *seed):
    return list(normal((count, width), np.float32, "sql", *seed))


# The usage guide ------------------------------------------------------------------------------------------------------

UNIT = f32([1, 0, 0, 0, 1, 0, 0, 0])
KEYS8 = f32([[1, 0, 0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 1, 0, 0]])
VALUES8 = f32([[1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1]])
KEYS3 = f32([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]])


def check_version(rows, tables, fetch):
    assert rows == [(ruvector.__version__,)]


def check_score(rows, tables, fetch):
    same(rows[0][0], ruvector.attention_score(f32([1, 0, 0, 0]), f32([1, 0, 0, 0])))
    assert rows[0][0] == 0.5


def check_softmax(rows, tables, fetch):
    same(rows[0][0], ruvector.softmax(f32([1, 2, 3, 4])))
    # the guide prints 0.236 and 0.645 for the last two
    assert np.abs(numbers(rows[0][0]) - [0.0320586, 0.0871443, 0.2368828, 0.6439143]).max() < 1e-6


def check_multi_head(rows, tables, fetch):
    same(rows[0][0], ruvector.multi_head_attention(UNIT, KEYS8, VALUES8, 4))
    wanted = [3.3116692, 3.6511923, 4.5, 4.5, 4.6697615, 5.0092846, 4.5, 4.5]
    assert np.abs(numbers(rows[0][0]) - wanted).max() < 4e-6


def check_weights(rows, tables, fetch):
    same(rows[0][0], ruvector.attention_scores(f32([1, 0, 0]), KEYS3))
    # the guide prints 0.576, 0.212, 0.212
    assert np.abs(numbers(rows[0][0]) - [0.4327806, 0.2429561, 0.3242633]).max() < 1e-6


def flash_of(block_size, table, *columns):
    def check(rows, tables, fetch):
        query, keys, values = (tables[table].column(name) for name in columns)
        assert len(rows) == len(query) > 1
        for row, q, k, v in zip(rows, query, keys, values):
            same(row[-1], ruvector.flash_attention(q, k, v, block_size))

    return check


def heads_of(num_heads):
    def check(rows, tables, fetch):
        query, keys, values = (tables["sample"].column(name) for name in ("query", "keys", "values"))
        assert len(rows) == len(query) > 1
        for row, q, k, v in zip(rows, query, keys, values):
            same(row[0], ruvector.multi_head_attention(q, k, v, num_heads))

    return check


def check_types(rows, tables, fetch):
    """The guide's rows come first; an engine without Python's compositions lacks gat, sparse and moe."""
    guide = {
        "scaled_dot": ("O(n\u00b2)", "Small sequences (<512)"),
        "multi_head": ("O(n\u00b2)", "General purpose, parallel processing"),
        "flash_v2": ("O(n\u00b2) memory-efficient", "GPU acceleration, large sequences"),
        "linear": ("O(n)", "Very long sequences (>4K)"),
        "cross": ("O(n*m)", "Query-document matching"),
        "sliding_window": ("O(n*w)", "Local context, streaming"),
        "poincare": ("O(n\u00b2)", "Hierarchical data structures"),
    }
    found = {row[0]: tuple(row[1:]) for row in rows}
    assert guide.items() <= found.items()
    records = {record.name: (record.complexity, record.best_for) for record in ruvector.attention_types()}
    assert all(records[name] == rest for name, rest in found.items())


def check_three_documents(rows, tables, fetch):
    found = fetch("SELECT title, embedding::float4[] FROM documents WHERE id > 0 ORDER BY id")
    assert [row[0] for row in found] == ["Deep Learning", "Machine Learning", "Neural Networks"]
    for _, embedding in found:
        embedding = numbers(embedding)
        assert embedding.shape == (768,) and (embedding == embedding[0]).all() and 0 <= embedding[0] < 1


def check_reranked(rows, tables, fetch):
    found = fetch("SELECT id, embedding::float4[] FROM documents")
    query = np.full(768, 0.5, np.float32)
    stored = {row[0]: numbers(row[1]) for row in found}
    distances = {key: float(np.linalg.norm((x - query).astype(np.float64))) for key, x in stored.items()}
    nearest = sorted(distances, key=distances.get)[:20]
    scores = {key: ruvector.attention_score(query, stored[key]) for key in nearest}
    ranked([(row[0], row[2]) for row in rows], scores, 10)
    for row in rows:
        assert abs(row[3] - distances[row[0]]) < 1e-4 * (1 + distances[row[0]])


def check_semantic_search(rows, tables, fetch):
    found = fetch("SELECT id, embedding::float4[] FROM documents")
    query = numbers(fetch("SELECT query_embedding FROM request")[0][0])
    stored = {row[0]: numbers(row[1]) for row in found}
    distances = {key: float(np.linalg.norm((x - query).astype(np.float64))) for key, x in stored.items()}
    nearest = sorted(distances, key=distances.get)[:20]
    scores = {key: ruvector.attention_score(query, stored[key], "multi_head") for key in nearest}
    ranked([(row[0], row[2]) for row in rows], scores, 10)


def check_matches(rows, tables, fetch):
    queries, base = tables["queries"].column("embedding"), tables["knowledge_base"].column("embedding")
    assert len(rows) == 5 * len(queries)
    for i, query in enumerate(queries):
        distance = np.linalg.norm((base - query).astype(np.float64), axis=1)
        nearest = np.argsort(distance)[:5]
        scores = {int(j) + 1: ruvector.attention_score(query, base[j], "cross") for j in nearest}
        ranked([(row[2], row[4]) for row in rows if row[0] == i + 1], scores, 5)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert all(row[1] == f"query {row[0]}" and row[3] == f"content {row[2]}" for row in rows)


def check_long_documents(rows, tables, fetch):
    query = np.full(512, 0.5, np.float32)
    chunks = tables["long_documents"].column("chunks")
    assert len(rows) == len(chunks)
    for row in rows:
        own = chunks[row[0] - 1]
        assert row[1] == f"document {row[0]}"
        same(row[2], ruvector.flash_attention(query, own, own, 128))


def check_batch(rows, tables, fetch):
    queries, documents = tables["user_queries"].column("embedding"), tables["document_store"].column("embedding")
    assert len(rows) == len(queries) * len(documents)
    for i, query in enumerate(queries):
        scores = {j + 1: ruvector.attention_score(query, x) for j, x in enumerate(documents)}
        ranked([row[1:] for row in rows if row[0] == i + 1], scores, len(documents))


def check_pipeline(rows, tables, fetch):
    """A row of the second stage attends over one key: the output is that key, and rows come in falling order."""
    query, keys = tables["documents"].column("query")[0], tables["documents"].column("embedding")
    scores = [ruvector.attention_score(query, key) for key in keys]
    first = sorted(range(len(keys)), key=lambda i: -scores[i])[:100]
    outputs = {i + 1: ruvector.multi_head_attention(query, keys[i : i + 1], keys[i : i + 1], 8) for i in first}
    assert [row[0] for row in rows] == sorted(outputs, key=lambda i: tuple(-outputs[i]))[:10]
    for row in rows:
        same(row[1], outputs[row[0]])


def check_stage(rows, tables, fetch):
    query, keys = tables["documents"].column("query")[0], tables["documents"].column("embedding")
    scores = np.array([ruvector.attention_score(query, key) for key in keys])
    stage = keys[np.sort(np.argsort(-scores)[:100])]
    assert len(rows) == 1
    same(rows[0][0], ruvector.multi_head_attention(query, stage, stage, 8))


GUIDE_TABLE = Table(
    "documents",
    (("id", "int"), ("query_vector", "floats"), ("key_vectors", "matrix"), ("value_vectors", "matrix")),
    tuple(
        (
            i + 1,
            *vectors(1, 96, "flash query", i),
            normal((n, 96), np.float32, "flash keys", i),
            normal((n, 64), np.float32, "flash values", i),
        )
        for i, n in enumerate((1, 63, 64, 65, 200))
    ),
)
SAMPLE = Table(
    "sample",
    (
        ("id", "int"),
        ("query", "floats"),
        ("keys", "matrix"),
        ("values", "matrix"),
        ("q", "floats"),
        ("k", "matrix"),
        ("v", "matrix"),
    ),
    tuple(
        (i + 1, *(normal(shape, np.float32, "sample", name, i) for name, shape in shapes))
        for i, n in enumerate((3, 50, 129))
        for shapes in [
            (("query", 128), ("keys", (n, 128)), ("values", (n, 64)), ("q", 48), ("k", (n, 48)), ("v", (n, 40)))
        ]
    ),
)
REQUEST = Table("request", (("query_embedding", "floats"),), ((vectors(1, 768, "request")[0],),))
# The guide's own three documents have collinear embeddings; these do not. Negative numbers leave its numbering alone.
DOCUMENTS = Table(
    "documents",
    (("id", "int"), ("title", "text"), ("embedding", "vector")),
    tuple((-i, f"document {i}", x) for i, x in enumerate(vectors(40, 768, "documents"), 1)),
)
QUERIES = Table(
    "queries",
    (("id", "int"), ("text", "text"), ("embedding", "vector")),
    tuple((i, f"query {i}", x) for i, x in enumerate(vectors(4, 384, "queries"), 1)),
)
KNOWLEDGE = Table(
    "knowledge_base",
    (("id", "int"), ("content", "text"), ("embedding", "vector")),
    tuple((i, f"content {i}", x) for i, x in enumerate(vectors(30, 384, "knowledge"), 1)),
)
LONG = Table(
    "long_documents",
    (("id", "int"), ("chunks", "vectors"), ("metadata", "json")),
    tuple(
        (i, normal((n, 512), np.float32, "chunks", i), {"title": f"document {i}"})
        for i, n in enumerate((1, 2, 7, 33, 130), 1)
    ),
)
USER_QUERIES, STORE = (
    Table(
        name,
        (("id", "int"), ("embedding", "vector")),
        tuple((i, x) for i, x in enumerate(vectors(count, 128, name), 1)),
    )
    for name, count in (("user_queries", 3), ("document_store", 50))
)
STAGES = Table(
    "documents",
    (("id", "int"), ("embedding", "vector"), ("query", "vector")),
    tuple((i, x, vectors(1, 64, "pipeline query")[0]) for i, x in enumerate(vectors(120, 64, "pipeline"), 1)),
)

NO_SERIAL = "DuckDB has neither serial columns nor vector(n): a sequence, and FLOAT[n]"
NO_FILL = "DuckDB has no array_fill: repeat"
NO_TABLE = "the columns are of no table: one that has them"

GUIDE = "usage guide"
SCENES = (
    Scene(
        "installation",
        GUIDE,
        (
            Statement(
                "create extension",
                "CREATE EXTENSION ruvector_postgres;",
                forms={"duckdb": None},
                why="in DuckDB the functions belong to a connection: ruvector.duckdb.register(con), or `ruvector sql`",
            ),
            Statement("version", "SELECT ruvector_version();", check_version),
        ),
    ),
    Scene(
        "basic usage",
        GUIDE,
        (
            Statement(
                "attention score",
                """SELECT ruvector_attention_score(
    ARRAY[1.0, 0.0, 0.0, 0.0]::float4[],  -- query
    ARRAY[1.0, 0.0, 0.0, 0.0]::float4[],  -- key
    'scaled_dot'                           -- attention type
) AS score;""",
                check_score,
            ),
            Statement(
                "softmax",
                """SELECT ruvector_softmax(
    ARRAY[1.0, 2.0, 3.0, 4.0]::float4[]
) AS probabilities;""",
                check_softmax,
            ),
            Statement(
                "multi-head attention",
                """SELECT ruvector_multi_head_attention(
    ARRAY[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]::float4[],  -- query (8-dim)
    ARRAY[
        ARRAY[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0],  -- key 1
        ARRAY[0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]   -- key 2
    ]::float4[][],                                        -- keys
    ARRAY[
        ARRAY[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],  -- value 1
        ARRAY[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]   -- value 2
    ]::float4[][],                                        -- values
    4                                                      -- num_heads
) AS output;""",
                check_multi_head,
            ),
            Statement(
                "flash attention",
                """SELECT ruvector_flash_attention(
    query_vector,
    key_vectors,
    value_vectors,
    64  -- block_size
) AS result
FROM documents;""",
                flash_of(64, "documents", "query_vector", "key_vectors", "value_vectors"),
            ),
            Statement(
                "attention scores",
                """SELECT ruvector_attention_scores(
    ARRAY[1.0, 0.0, 0.0]::float4[],  -- query
    ARRAY[
        ARRAY[1.0, 0.0, 0.0],  -- key 1: high similarity
        ARRAY[0.0, 1.0, 0.0],  -- key 2: orthogonal
        ARRAY[0.5, 0.5, 0.0]   -- key 3: partial match
    ]::float4[][]              -- all keys
) AS attention_weights;""",
                check_weights,
            ),
        ),
        (GUIDE_TABLE,),
    ),
    Scene(
        "document reranking",
        GUIDE,
        (
            Statement(
                "create documents",
                """CREATE TABLE documents (
    id SERIAL PRIMARY KEY,
    title TEXT,
    embedding vector(768)
);""",
                forms={
                    "duckdb": """CREATE SEQUENCE documents_id;
CREATE TABLE documents (
    id INTEGER PRIMARY KEY DEFAULT nextval('documents_id'),
    title TEXT,
    embedding FLOAT[768]
);"""
                },
                why=NO_SERIAL,
                fills="documents",
                vectors=True,
            ),
            Statement(
                "insert documents",
                """INSERT INTO documents (title, embedding)
VALUES
    ('Deep Learning', array_fill(random()::float4, ARRAY[768])),
    ('Machine Learning', array_fill(random()::float4, ARRAY[768])),
    ('Neural Networks', array_fill(random()::float4, ARRAY[768]));""",
                check_three_documents,
                forms={
                    "duckdb": """INSERT INTO documents (title, embedding)
VALUES
    ('Deep Learning', repeat([random()::float4], 768)),
    ('Machine Learning', repeat([random()::float4], 768)),
    ('Neural Networks', repeat([random()::float4], 768));"""
                },
                why=NO_FILL,
                vectors=True,
            ),
            Statement(
                "rerank",
                """WITH query AS (
    SELECT array_fill(0.5::float4, ARRAY[768]) AS qvec
),
initial_results AS (
    SELECT
        id,
        title,
        embedding,
        embedding <-> (SELECT qvec FROM query) AS distance
    FROM documents
    ORDER BY distance
    LIMIT 20
)
SELECT
    id,
    title,
    ruvector_attention_score(
        (SELECT qvec FROM query),
        embedding,
        'scaled_dot'
    ) AS attention_score,
    distance
FROM initial_results
ORDER BY attention_score DESC
LIMIT 10;""",
                check_reranked,
                forms={
                    "duckdb": """WITH query AS (
    SELECT repeat([0.5::float4], 768) AS qvec
),
initial_results AS (
    SELECT
        id,
        title,
        embedding,
        embedding <-> (SELECT qvec FROM query) AS distance
    FROM documents
    ORDER BY distance
    LIMIT 20
)
SELECT
    id,
    title,
    ruvector_attention_score(
        (SELECT qvec FROM query),
        embedding,
        'scaled_dot'
    ) AS attention_score,
    distance
FROM initial_results
ORDER BY attention_score DESC
LIMIT 10;"""
                },
                why=NO_FILL,
                vectors=True,
            ),
            Statement(
                "create search function",
                """CREATE OR REPLACE FUNCTION semantic_search_with_attention(
    query_embedding float4[],
    num_results int DEFAULT 10,
    num_heads int DEFAULT 8
)
RETURNS TABLE (
    id int,
    title text,
    attention_score float4
) AS $$
BEGIN
    RETURN QUERY
    WITH candidates AS (
        SELECT d.id, d.title, d.embedding
        FROM documents d
        ORDER BY d.embedding <-> query_embedding
        LIMIT num_results * 2
    ),
    attention_scores AS (
        SELECT
            c.id,
            c.title,
            ruvector_attention_score(
                query_embedding,
                c.embedding,
                'multi_head'
            ) AS score
        FROM candidates c
    )
    SELECT a.id, a.title, a.score
    FROM attention_scores a
    ORDER BY a.score DESC
    LIMIT num_results;
END;
$$ LANGUAGE plpgsql;""",
                forms={
                    "duckdb": """CREATE OR REPLACE TEMP MACRO semantic_search_with_attention(
    query_embedding,
    num_results := 10,
    num_heads := 8
) AS TABLE
    WITH candidates AS (
        SELECT d.id, d.title, d.embedding
        FROM documents d
        ORDER BY d.embedding <-> query_embedding
        LIMIT num_results * 2
    ),
    attention_scores AS (
        SELECT
            c.id,
            c.title,
            ruvector_attention_score(
                query_embedding,
                c.embedding,
                'multi_head'
            ) AS score
        FROM candidates c
    )
    SELECT a.id, a.title, a.score
    FROM attention_scores a
    ORDER BY a.score DESC
    LIMIT num_results;"""
                },
                why="DuckDB has no PL/pgSQL: a table macro",
                vectors=True,
            ),
            Statement(
                "call search function",
                """SELECT * FROM semantic_search_with_attention(
    ARRAY[0.1, 0.2, ...]::float4[]
);""",
                check_semantic_search,
                forms=dict.fromkeys(
                    ENGINES,
                    """SELECT * FROM semantic_search_with_attention(
    (SELECT query_embedding FROM request)
);""",
                ),
                why="the dots stand for the other numbers",
                vectors=True,
            ),
        ),
        (REQUEST,),
        (DOCUMENTS,),
    ),
    Scene(
        "query-document matching",
        GUIDE,
        (
            Statement(
                "create queries",
                """CREATE TABLE queries (
    id SERIAL PRIMARY KEY,
    text TEXT,
    embedding vector(384)
);""",
                forms={
                    "duckdb": """CREATE SEQUENCE queries_id;
CREATE TABLE queries (
    id INTEGER PRIMARY KEY DEFAULT nextval('queries_id'),
    text TEXT,
    embedding FLOAT[384]
);"""
                },
                why=NO_SERIAL,
                fills="queries",
                vectors=True,
            ),
            Statement(
                "create knowledge base",
                """CREATE TABLE knowledge_base (
    id SERIAL PRIMARY KEY,
    content TEXT,
    embedding vector(384)
);""",
                forms={
                    "duckdb": """CREATE SEQUENCE knowledge_base_id;
CREATE TABLE knowledge_base (
    id INTEGER PRIMARY KEY DEFAULT nextval('knowledge_base_id'),
    content TEXT,
    embedding FLOAT[384]
);"""
                },
                why=NO_SERIAL,
                fills="knowledge_base",
                vectors=True,
            ),
            Statement(
                "match",
                """SELECT
    q.id AS query_id,
    q.text AS query_text,
    kb.id AS doc_id,
    kb.content AS doc_content,
    ruvector_attention_score(
        q.embedding,
        kb.embedding,
        'cross'
    ) AS relevance_score
FROM queries q
CROSS JOIN LATERAL (
    SELECT id, content, embedding
    FROM knowledge_base
    ORDER BY embedding <-> q.embedding
    LIMIT 5
) kb
ORDER BY q.id, relevance_score DESC;""",
                check_matches,
                vectors=True,
            ),
        ),
        (),
        (QUERIES, KNOWLEDGE),
    ),
    Scene(
        "long documents",
        GUIDE,
        (
            Statement(
                "create long documents",
                """CREATE TABLE long_documents (
    id SERIAL PRIMARY KEY,
    chunks vector(512)[],  -- Array of chunk embeddings
    metadata JSONB
);""",
                forms={
                    "duckdb": """CREATE SEQUENCE long_documents_id;
CREATE TABLE long_documents (
    id INTEGER PRIMARY KEY DEFAULT nextval('long_documents_id'),
    chunks FLOAT[512][],  -- Array of chunk embeddings
    metadata JSON
);"""
                },
                why=NO_SERIAL + "; JSON in place of JSONB",
                fills="long_documents",
                vectors=True,
            ),
            Statement(
                "flash attention over chunks",
                """WITH query AS (
    SELECT array_fill(0.5::float4, ARRAY[512]) AS qvec
)
SELECT
    ld.id,
    ld.metadata->>'title' AS title,
    ruvector_flash_attention(
        (SELECT qvec FROM query),
        ld.chunks,
        ld.chunks,  -- Use same chunks as values
        128         -- block_size for tiled processing
    ) AS attention_output
FROM long_documents ld
LIMIT 10;""",
                check_long_documents,
                forms={
                    "duckdb": """WITH query AS (
    SELECT repeat([0.5::float4], 512) AS qvec
)
SELECT
    ld.id,
    ld.metadata->>'title' AS title,
    ruvector_flash_attention(
        (SELECT qvec FROM query),
        ld.chunks,
        ld.chunks,  -- Use same chunks as values
        128         -- block_size for tiled processing
    ) AS attention_output
FROM long_documents ld
LIMIT 10;"""
                },
                why=NO_FILL,
                vectors=True,
            ),
        ),
        (),
        (LONG,),
    ),
    Scene(
        "attention types",
        GUIDE,
        (Statement("attention types", "SELECT * FROM ruvector_attention_types();", check_types),),
    ),
    Scene(
        "performance tips",
        GUIDE,
        (
            *(
                Statement(
                    f"flash attention in blocks of {size}",
                    f"SELECT ruvector_flash_attention(q, k, v, {size});",
                    flash_of(size, "sample", "q", "k", "v"),
                    forms=dict.fromkeys(
                        ENGINES, f"SELECT ruvector_flash_attention(q, k, v, {size}) FROM sample ORDER BY id;"
                    ),
                    why=NO_TABLE,
                )
                for size in (32, 128)
            ),
            *(
                Statement(
                    f"{heads} heads",
                    f"SELECT ruvector_multi_head_attention(query, keys, values, {heads});",
                    heads_of(heads),
                    forms=dict.fromkeys(
                        ENGINES,
                        f'SELECT ruvector_multi_head_attention(query, keys, "values", {heads}) FROM sample ORDER BY id;',
                    ),
                    why=NO_TABLE + '; values is a reserved word: "values"',
                )
                for heads in (8, 16)
            ),
            Statement(
                "batch",
                """WITH queries AS (
    SELECT id, embedding AS qvec FROM user_queries
),
documents AS (
    SELECT id, embedding AS dvec FROM document_store
)
SELECT
    q.id AS query_id,
    d.id AS doc_id,
    ruvector_attention_score(q.qvec, d.dvec, 'scaled_dot') AS score
FROM queries q
CROSS JOIN documents d
ORDER BY q.id, score DESC;""",
                check_batch,
            ),
        ),
        (SAMPLE, USER_QUERIES, STORE),
    ),
    Scene(
        "custom pipelines",
        GUIDE,
        (
            Statement(
                "two stages",
                """WITH first_stage AS (
    -- Use fast scaled_dot for initial filtering
    SELECT id, embedding,
           ruvector_attention_score(query, embedding, 'scaled_dot') AS score
    FROM documents
    ORDER BY score DESC
    LIMIT 100
),
second_stage AS (
    -- Use multi-head for refined ranking
    SELECT id,
           ruvector_multi_head_attention(query,
               ARRAY_AGG(embedding),
               ARRAY_AGG(embedding),
               8) AS refined_score
    FROM first_stage
)
SELECT * FROM second_stage ORDER BY refined_score DESC LIMIT 10;""",
                check_pipeline,
                forms=dict.fromkeys(
                    ENGINES,
                    """WITH first_stage AS (
    -- Use fast scaled_dot for initial filtering
    SELECT id, query, embedding,
           ruvector_attention_score(query, embedding, 'scaled_dot') AS score
    FROM documents
    ORDER BY score DESC
    LIMIT 100
),
second_stage AS (
    -- Use multi-head for refined ranking
    SELECT id,
           ruvector_multi_head_attention(query,
               ARRAY_AGG(embedding),
               ARRAY_AGG(embedding),
               8) AS refined_score
    FROM first_stage
    GROUP BY id, query
)
SELECT * FROM second_stage ORDER BY refined_score DESC LIMIT 10;""",
                ),
                why="the second stage lacks GROUP BY, and query is no column of the first",
            ),
            Statement(
                "two stages, one output",
                """WITH first_stage AS (
    SELECT id, query, embedding, ruvector_attention_score(query, embedding, 'scaled_dot') AS score
    FROM documents ORDER BY score DESC LIMIT 100
)
SELECT ruvector_multi_head_attention(query, ARRAY_AGG(embedding ORDER BY id), ARRAY_AGG(embedding ORDER BY id), 8) AS output
FROM first_stage GROUP BY query;""",
                check_stage,
                why="what the two stages can mean: attention over all rows of the first; not in the guide",
            ),
        ),
        (STAGES,),
    ),
    Scene(
        "error messages",
        GUIDE,
        (
            Statement(
                "dimensions differ",
                "SELECT ruvector_attention_score(a, b) FROM pair;",
                error="Query and key dimensions must match: 768 vs 384",
            ),
            Statement(
                "heads do not divide",
                "SELECT ruvector_multi_head_attention(a, rows, rows, 5) FROM pair;",
                error="Query dimension 768 must be divisible by num_heads 5",
            ),
        ),
        (
            Table(
                "pair",
                (("a", "floats"), ("b", "floats"), ("rows", "matrix")),
                ((*vectors(1, 768, "a"), *vectors(1, 384, "b"), normal((3, 768), np.float32, "sql", "rows")),),
            ),
        ),
    ),
)

# The integration plan -------------------------------------------------------------------------------------------------


def check_plan_scores(rows, tables, fetch):
    """The plan gives the embedding first: the score is the same either way."""
    table = tables["documents"]
    keys, query = table.column("embedding"), table.column("query_vec")[0]
    scores = {i + 1: ruvector.attention_score(key, query) for i, key in enumerate(keys)}
    ranked([(row[0], row[2]) for row in rows], scores, 10)


def check_mha_search(rows, tables, fetch):
    keys, query = tables["documents"].column("embedding"), tables["request"].column("query_embedding")[0]
    weights = ruvector.attention_scores(query, keys, "multi_head", num_heads=8)
    ranked(rows, dict(enumerate(weights, 1)), 10)


def check_cross(rows, tables, fetch):
    """Attention weights of each query over all documents, in the order of both keys."""
    queries, keys = tables["queries"].column("embedding"), tables["documents"].column("embedding")
    assert [row[:2] for row in sorted(rows)] == [(i + 1, j + 1) for i in range(len(queries)) for j in range(len(keys))]
    for i, query in enumerate(queries):
        same([row[2] for row in sorted(rows) if row[0] == i + 1], ruvector.attention_scores(query, keys, "scaled_dot"))


def check_routes(rows, tables, fetch):
    keys = tables["documents"].column("embedding")
    assert len(rows) == len(keys)
    for row in rows:
        indices, weights = ruvector.moe_route(keys[row[0] - 1], 8, 2)
        found = routing(row[1])
        assert found[0] == list(indices)
        same(found[1], weights)


def check_sliding(rows, tables, fetch):
    """Positions count from 0; the output is the mean over the windows that cover a position."""
    merged = ruvector.sliding_attention(tables["request"].column("embedding_array")[0], 256, 128)[2]
    assert [row[0] for row in rows] == list(range(len(merged)))
    same([numbers(row[1]) for row in rows], merged)


def check_gat(rows, tables, fetch):
    edges = np.array([row[:2] for row in tables["edges"].rows]).T
    ids, scores = ruvector.gat_search(tables["nodes"].column("embedding"), edges, 3, 4, 10)
    assert [row[0] for row in rows] == list(ids)
    same([row[1] for row in rows], scores)


def check_distance(rows, tables, fetch):
    points = tables["points"]
    for row, a, b in zip(rows, points.column("a"), points.column("b")):
        same(row[0], ruvector.hyperbolic_distance(a, b))
        same(row[1], ruvector.hyperbolic_distance(a, b, 0.5))


PLAN = "integration plan"
PLAN_DOCUMENTS = Table(
    "documents",
    (("id", "int"), ("content", "text"), ("embedding", "vector"), ("query_vec", "floats")),
    tuple((i, f"content {i}", x, vectors(1, 768, "query_vec")[0]) for i, x in enumerate(vectors(25, 768, "plan"), 1)),
)
PLAN_QUERIES = Table(
    "queries",
    (("id", "int"), ("embedding", "vector")),
    tuple((i, x) for i, x in enumerate(vectors(3, 768, "plan queries"), 1)),
)
PLAN_REQUEST = Table(
    "request",
    (("query_embedding", "floats"), ("embedding_array", "matrix")),
    ((*vectors(1, 768, "plan request"), normal((600, 32), np.float32, "sql", "sequence")),),
)
NODES = Table(
    "nodes",
    (("id", "int"), ("embedding", "vector")),
    tuple(enumerate(vectors(30, 32, "nodes"))),
)
EDGES = Table(
    "edges",
    (("source", "int"), ("target", "int")),
    tuple((int(s), int(t)) for s, t in np.random.default_rng(5).integers(0, 30, (200, 2)) % [30, 5]) + ((7, 3), (7, 3)),
)
POINTS = Table(
    "points",
    (("a", "floats"), ("b", "floats")),
    tuple(
        (a * np.float32(0.05), b * np.float32(0.05)) for a, b in zip(vectors(6, 16, "ball a"), vectors(6, 16, "ball b"))
    ),
)

SCENES += (
    Scene(
        "basic operations",
        PLAN,
        (
            Statement(
                "create index",
                """CREATE INDEX ON documents USING ruvector_attention (
    embedding vector(768)
) WITH (
    attention_type = 'flash',
    num_heads = 8,
    head_dim = 96
);""",
                forms={
                    "duckdb": None,
                    "postgres": """CREATE INDEX ON documents USING ruvector_attention (
    embedding
) WITH (
    attention_type = 'flash',
    num_heads = 8,
    head_dim = 96
);""",
                },
                why="an index is on columns, which have their types already; DuckDB has no access method for attention",
                vectors=True,
            ),
            Statement(
                "search by score",
                """SELECT id, content,
       ruvector_attention_score(embedding, query_vec, 'scaled_dot') AS score
FROM documents
ORDER BY score DESC
LIMIT 10;""",
                check_plan_scores,
            ),
            Statement(
                "multi-head search",
                """SELECT * FROM ruvector_mha_search(
    table_name := 'documents',
    query := query_embedding,
    num_heads := 8,
    k := 10
);""",
                check_mha_search,
                forms=dict.fromkeys(
                    ENGINES,
                    """SELECT * FROM ruvector_mha_search(
    table_name := 'documents',
    query := (SELECT query_embedding FROM request),
    num_heads := 8,
    k := 10
);""",
                ),
                why="query_embedding is a column of no table in the statement",
            ),
            Statement(
                "cross-attention of tables",
                """SELECT q.id AS query_id, d.id AS doc_id, score
FROM ruvector_cross_attention(
    query_table := 'queries',
    query_column := 'embedding',
    document_table := 'documents',
    document_column := 'embedding',
    attention_type := 'scaled_dot'
) AS (query_id int, doc_id int, score float);""",
                check_cross,
                forms={
                    "duckdb": """SELECT query_id, doc_id, score
FROM ruvector_cross_attention(
    query_table := 'queries',
    query_column := 'embedding',
    document_table := 'documents',
    document_column := 'embedding',
    attention_type := 'scaled_dot'
);""",
                    "postgres": """SELECT query_id, doc_id, score
FROM ruvector_cross_attention(
    query_table := 'queries',
    query_column := 'embedding',
    document_table := 'documents',
    document_column := 'embedding',
    attention_type := 'scaled_dot'
) AS (query_id int, doc_id int, score float);""",
                },
                why="q and d are no tables of the statement; DuckDB has no column definition lists",
            ),
            Statement(
                "mixture of experts",
                """SELECT id, ruvector_moe_route(embedding, num_experts := 8, top_k := 2) AS expert_weights
FROM documents;""",
                check_routes,
            ),
            Statement(
                "sliding windows",
                """SELECT * FROM ruvector_sliding_attention(
    embeddings := embedding_array,
    window_size := 256,
    stride := 128
);""",
                check_sliding,
                forms=dict.fromkeys(
                    ENGINES,
                    """SELECT * FROM ruvector_sliding_attention(
    embeddings := (SELECT embedding_array FROM request),
    window_size := 256,
    stride := 128
);""",
                ),
                why="embedding_array is a column of no table in the statement",
            ),
            Statement("attention types", "SELECT * FROM ruvector_attention_types();", check_types),
        ),
        (PLAN_DOCUMENTS, PLAN_QUERIES, PLAN_REQUEST),
    ),
    # The plan declares these two without an example.
    Scene(
        "declared functions",
        PLAN,
        (
            Statement(
                "graph attention search",
                "SELECT * FROM ruvector_gat_search('nodes', 'edges', 3, num_heads := 4, k := 10);",
                check_gat,
            ),
            Statement(
                "hyperbolic distance",
                "SELECT ruvector_hyperbolic_distance(a, b), ruvector_hyperbolic_distance(a, b, curvature := 0.5) FROM points;",
                check_distance,
            ),
        ),
        (NODES, EDGES, POINTS),
    ),
)
