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
