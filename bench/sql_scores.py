"""The score of 200,000 pairs of 128-d vectors in DuckDB: python bench/sql_scores.py [--rows N] [--dim N] [--rounds N] [--threads N]

Beside it: an Arrow function that does nothing and returns zeros, which is what any function in Python costs here; DuckDB's own
inner products; NumPy and this library on the same data outside the database. Rounds alternate, the best of each counts. The
ratio is of CPU time, that of all threads, which other programs on the machine disturb less.
"""

import argparse
import time

import duckdb
import numpy as np
import pyarrow as pa
import ruvector
from ruvector.duckdb import register


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="threads of DuckDB (default: its own)")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((options.rows, options.dim), np.float32)
    query = rng.standard_normal(options.dim, np.float32)
    with duckdb.connect() as con:
        register(con)
        con.create_function(
            "zeros",
            lambda *columns: pa.array(np.zeros(len(columns[0]), np.float32)),
            None,
            "FLOAT",
            type="arrow",
            null_handling="special",
        )
        vector = f"FLOAT[{options.dim}]"
        column = pa.FixedSizeListArray.from_arrays(pa.array(keys.reshape(-1)), options.dim)
        con.register("data", pa.table({"v": column}))
        con.execute(f"CREATE TABLE fixed AS SELECT v::{vector} AS v FROM data").fetchall()
        con.execute("CREATE TABLE lists AS SELECT v::FLOAT[] AS v FROM fixed").fetchall()
        con.execute(f"CREATE TABLE fixed_query AS SELECT {query.tolist()}::{vector} AS q").fetchall()
        con.execute("CREATE TABLE list_query AS SELECT q::FLOAT[] AS q FROM fixed_query").fetchall()
        if options.threads:
            con.execute(f"SET threads = {options.threads}").fetchall()
        (threads,) = con.execute("SELECT current_setting('threads')").fetchall()[0]

        def sql(call, table):
            text = f"SELECT sum({call}) FROM {'fixed' if table == vector else 'lists'}"
            text = text.replace("$q", f"(SELECT q FROM {'fixed' if table == vector else 'list'}_query)")
            return lambda: con.execute(text).fetchall()

        scale = np.float32(options.dim**-0.5)
        runs = {}
        for kind in (vector, "FLOAT[]"):
            runs[kind, "a function that returns zeros"] = sql("zeros(v, $q)", kind)
            runs[kind, "ruvector_attention_score"] = sql("ruvector_attention_score($q, v)", kind)
            native = "array_inner_product" if kind == vector else "list_inner_product"
            runs[kind, native] = sql(f"{native}($q, v)", kind)
        runs["ndarray", "ruvector.attention_score"] = lambda: ruvector.attention_score(query, keys)
        runs["ndarray", "NumPy: keys @ query"] = lambda: keys @ query * scale
        best = dict.fromkeys(runs, (float("inf"), float("inf")))
        for _ in range(options.rounds):
            for name, run in runs.items():
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                took = time.perf_counter() - wall, time.process_time() - cpu
                best[name] = tuple(map(min, best[name], took))
    print(f"{options.rows} x {options.dim}, DuckDB {duckdb.__version__} on {threads} threads, ISA {ruvector.isa()}")
    for (kind, name), (wall, cpu) in best.items():
        zeros = best.get((kind, "a function that returns zeros"))
        ratio = f"{cpu / zeros[1]:5.2f} of the function that returns zeros" if zeros else ""
        print(f"{kind:12} {name:30} {1e3 * wall:7.1f} ms, CPU {1e3 * cpu:7.1f} ms  {ratio}".rstrip())


if __name__ == "__main__":
    main()
