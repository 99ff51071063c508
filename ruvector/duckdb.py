"""The SQL functions in DuckDB: Arrow arrays in, one call of the core for the rows of a batch, Arrow arrays out.

DuckDB's functions in Python have one type of result, and no defaults. So these take lists of any numbers and give double, which
holds every float32 and float64; the macro over each has the public name, the defaults, and turns the result into the type of
the arguments' elements.
"""

from __future__ import annotations

import decimal
import functools
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

import ruvector
from ruvector._registry import _LACKS, canonical, records

try:
    import duckdb
    import pyarrow as pa
    import pyarrow.compute as pc
except ModuleNotFoundError as error:
    if error.name not in ("duckdb", "pyarrow"):
        raise
    raise ImportError(
        f"ruvector.duckdb needs the packages duckdb and pyarrow, and {error.name} is not installed; "
        "the extra `sql` of ruvector brings both"
    ) from None

__all__ = ["register"]


# From Arrow to NumPy --------------------------------------------------------------------------------------------------


class _Vectors(NamedTuple):
    """Vectors inside one flat array: vector i is ``flat[starts[i] : starts[i] + lengths[i]]``."""

    flat: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def dense(self, first, count):
        """Vectors [first, first + count) as an array, a view where they lie side by side; None where lengths differ."""
        lengths = self.lengths[first : first + count]
        width = int(lengths[0]) if count else 0
        if count and (lengths != width).any():
            return None
        starts = self.starts[first : first + count]
        start = int(starts[0]) if count else 0
        if (np.diff(starts) == width).all():
            return self.flat[start : start + count * width].reshape(count, width)
        return self.flat[starts[:, None] + np.arange(width)]


def _one(column):
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _is_list(kind):
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _bounds(array):
    """Where the lists of an array start in its values, and how long they are; null ones are empty."""
    if pa.types.is_fixed_size_list(array.type):
        width = array.type.list_size
        starts = np.arange(array.offset, array.offset + len(array)) * width
        return starts, np.full(len(array), width)
    offsets = array.offsets.to_numpy()
    lengths = np.diff(offsets)
    if array.null_count:
        lengths = np.where(array.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
    return offsets[:-1], lengths


def _vectors(array, name, used=None):
    """The lists of numbers of an Arrow array; `used` marks those that are looked at."""
    if not (_is_list(array.type) or pa.types.is_fixed_size_list(array.type)):
        raise TypeError(f"{name} must be a list of numbers, got {array.type}")
    starts, lengths = _bounds(array)
    values = array.values
    kind = values.type
    if pa.types.is_null(kind) and len(values) == 0:
        return _Vectors(np.zeros(0, np.float32), starts, lengths)
    if values.null_count:
        missing = np.concatenate([[0], np.cumsum(values.is_null().to_numpy(zero_copy_only=False))])
        holes = missing[starts + lengths] - missing[starts]
        if holes[array.is_valid().to_numpy(zero_copy_only=False) if used is None else used].any():
            raise ValueError(f"{name} holds a NULL element")
        if pa.types.is_null(kind):
            return _Vectors(np.zeros(len(values), np.float32), starts, lengths)
        values = values.fill_null(0)
    if pa.types.is_decimal(kind):
        values = values.cast(pa.float64())
    elif not (pa.types.is_float32(kind) or pa.types.is_float64(kind) or pa.types.is_integer(kind)):
        raise TypeError(f"{name} must be a list of numbers, got {array.type}")
    flat = values.to_numpy(zero_copy_only=False)
    return _Vectors(flat if pa.types.is_floating(kind) else flat.astype(np.float32), starts, lengths)


class _Rows:
    """An argument of rows of vectors: ``all()`` gives an array with the rows in front, ``row(i)`` that of one."""

    def __init__(self, array, name, keep):
        if keep is not None:
            array = array.filter(keep)
        self.name, self.array = name, array

    @functools.cached_property
    def vectors(self):
        return _vectors(self.array, self.name)

    def all(self):
        array = self.array
        if pa.types.is_fixed_size_list(array.type) and pa.types.is_floating(array.type.value_type):
            values, width = array.values, array.type.list_size
            if not values.null_count:
                return values.to_numpy()[array.offset * width :][: len(array) * width].reshape(-1, width)
        return self.vectors.dense(0, len(self.vectors.starts))

    def row(self, i):
        return self.vectors.dense(i, 1)[0]

    @property
    def sizes(self):
        """Numbers of each row: those with as many can come together. None where that is not enough to know."""
        return self.vectors.lengths

    def some(self, rows):
        """Rows of one size, as an array with an axis of rows in front."""
        vectors = self.vectors
        return vectors.flat[vectors.starts[rows][:, None] + np.arange(vectors.lengths[rows[0]])]


class _Matrices(_Rows):
    """The same of lists of vectors."""

    def __init__(self, array, name, keep):
        if keep is not None:
            array = array.filter(keep)
        if not (_is_list(array.type) or pa.types.is_fixed_size_list(array.type)):
            raise TypeError(f"{name} must be a list of vectors, got {array.type}")
        self.name, (self.starts, self.lengths) = name, _bounds(array)
        inner = array.values
        if pa.types.is_null(inner.type) and len(inner) == 0:
            inner = pa.array([], pa.list_(pa.float32()))
        if inner.null_count:
            gaps = np.concatenate([[0], np.cumsum(inner.is_null().to_numpy(zero_copy_only=False))])
            if (gaps[self.starts + self.lengths] != gaps[self.starts]).any():
                raise ValueError(
                    f"{name} holds a NULL vector; list(x) FILTER (WHERE x IS NOT NULL) leaves rows without one out"
                )
        self.vectors = _vectors(inner, name)
        self.width = inner.type.list_size if pa.types.is_fixed_size_list(inner.type) else None

    def all(self):
        rows = len(self.starts)
        count = int(self.lengths[0]) if rows else 0
        if (self.lengths != count).any() or (np.diff(self.starts) != count).any():
            return None
        if rows * count == 0:
            return None
        found = self.vectors.dense(int(self.starts[0]), rows * count)
        return None if found is None else found.reshape(rows, count, -1)

    @functools.cached_property
    def table(self):
        """All vectors of all rows as one array; None where their lengths differ."""
        return self.vectors.dense(0, len(self.vectors.starts))

    @property
    def sizes(self):
        return None if self.table is None else self.lengths * self.table.shape[1]

    def some(self, rows):
        return self.table[self.starts[rows][:, None] + np.arange(self.lengths[rows[0]])]

    def row(self, i):
        start, count = int(self.starts[i]), int(self.lengths[i])
        if count == 0:
            return np.zeros((0, self.width or 0), self.vectors.flat.dtype)
        found = self.vectors.dense(start, count)
        if found is None:
            lengths = self.vectors.lengths[start : start + count]
            at = int(np.flatnonzero(lengths != lengths[0])[0])
            raise ValueError(f"{self.name}[{at}] has dimension {lengths[at]} but expected {lengths[0]}")
        return found


# Options --------------------------------------------------------------------------------------------------------------


def _plain(value):
    """An option's value as the library takes it."""
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return np.array(value, np.float64) if isinstance(value, list) else value


def _constant(array):
    """Whether all rows are the same."""
    if array.null_count:
        return array.null_count == len(array)
    if pa.types.is_struct(array.type):
        return all(_constant(part) for part in array.flatten())
    if _is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        return all(value == array[0] for value in array)
    return pc.all(pc.equal(array, array[0])).as_py() is not False


def _settings(columns, names):
    """Groups of rows with the same options: ``[(rows or None for all, {name: value})]``; a NULL is left out."""

    def read(i):
        found = {}
        for name, column in zip(names, columns):
            value = column[i].as_py()
            if name == "options":
                if value is not None and not isinstance(value, dict):
                    raise TypeError(f"options must be a struct such as {{'num_heads': 4}}, got {column.type}")
                found.update({key: _plain(item) for key, item in (value or {}).items() if item is not None})
            elif value is not None:
                found[name] = _plain(value)
        return found

    if all(_constant(column) for column in columns):
        return [(None, read(0))]
    groups: dict[str, tuple[list[int], dict]] = {}
    for i in range(len(columns[0])):
        found = read(i)
        groups.setdefault(repr(found), ([], found))[0].append(i)
    return [(np.array(rows), found) for rows, found in groups.values()]


# The functions: of one row, or of a batch, whose arrays have an axis of rows in front -----------------------------------


_COMPILED = frozenset(record.name for record in records())


def _together(options):
    """Whether rows that come together have the bits of each alone: what Python composes may multiply or sort all of them."""
    return canonical(options.get("attention_type", "scaled_dot")) in _COMPILED


def _score(query, key, *, attention_type="scaled_dot", **options):
    return ruvector.attention_score(query, key, attention_type, **options)


def _scores(query, keys, *, attention_type="scaled_dot", **options):
    if keys.ndim == 2:
        if len(keys) == 0:
            return np.zeros(0, np.result_type(query, keys))
        return ruvector.attention_scores(query, keys, attention_type, **options)
    return ruvector.attention_scores(query[:, None], keys, attention_type, **options)[:, 0]


def _attention(query, keys, values, *, attention_type="scaled_dot", **options):
    call = ruvector.get_attention(attention_type, **options)
    if keys.ndim == 2:
        if len(keys) == 0 and keys.shape[1] == 0:
            keys = np.zeros((0, len(query)), keys.dtype)
        return call(query, keys, values)
    return call(query[:, None], keys, values)[:, 0]


def _cross(queries, keys, *, attention_type="scaled_dot", **options):
    """Each query on its own, as the function of one query: a batch of single queries."""
    if len(queries) == 0 or len(keys) == 0:
        return np.zeros((len(queries), len(keys)), np.result_type(queries, keys))
    if not _together({"attention_type": attention_type}):
        return np.stack([ruvector.attention_scores(query, keys, attention_type, **options) for query in queries])
    return ruvector.attention_scores(queries[:, None], keys, attention_type, **options)[:, 0]


def _softmax(scores):
    return ruvector.softmax(scores)


def _distance(a, b, *, curvature=1.0):
    return ruvector.hyperbolic_distance(a, b, curvature)


def _sliding(embeddings, *, window_size=256, stride=128):
    return ruvector.sliding_attention(embeddings, window_size, stride)[2]


def _route(embedding, *, num_experts=8, top_k=2):
    """One product for each row, so that its bits do not depend on how many rows come together."""
    rows = np.atleast_2d(embedding)
    weights = ruvector.gate_weights(max(rows.shape[1], 1), num_experts).astype(rows.dtype)
    keys = np.ascontiguousarray(weights.T)
    routing = ruvector.moe_route(rows, num_experts, top_k, gate=lambda x: ruvector.batched_dot_products(x, keys))
    return [
        {"expert_indices": i, "expert_weights": w} for i, w in zip(routing.indices.tolist(), routing.weights.tolist())
    ]


_NUMBERS = 2**20  # of rows of different lengths that are copied to come together: 4 MB of floats


def _alike(arguments, rows):
    """Parts of `rows` whose arguments have the same sizes, none of them empty; None where rows come one by one."""
    sizes = [argument.sizes for argument in arguments]
    if any(size is None for size in sizes):
        return None
    sizes = np.stack(sizes, 1)[rows]
    if (sizes == 0).any():
        return None
    order = np.lexsort(sizes.T)
    edges = np.flatnonzero((np.diff(sizes[order], axis=0) != 0).any(1)) + 1
    parts = []
    for part in np.split(order, edges):
        most = max(1, _NUMBERS // int(sizes[part[0]].sum()))
        parts += [rows[part[i : i + most]] for i in range(0, len(part), most)]
    return parts


class _Function(NamedTuple):
    """A function: what computes it, the kinds of its arrays, the names of its options, its type in DuckDB."""

    compute: Callable
    arrays: tuple[tuple[str, type[_Rows]], ...]
    options: tuple[str, ...]
    result: str
    whole: bool = True  # takes the rows of a batch in one call

    def __call__(self, *columns):
        columns = [_one(column) for column in columns]
        count = len(self.arrays)
        # without a type nothing is computed; other options that are NULL have their defaults
        strict = columns[:count] + [c for c, name in zip(columns[count:], self.options) if name == "attention_type"]
        total = len(columns[0])
        keep = None
        if any(column.null_count for column in strict):
            keep = np.ones(total, bool)
            for column in strict:
                keep &= column.is_valid().to_numpy(zero_copy_only=False)
            if not keep.any():
                return pa.nulls(total, _ARROW[self.result])
        settings = columns[count:] if keep is None else [column.filter(pa.array(keep)) for column in columns[count:]]
        mask = None if keep is None else pa.array(keep)
        arguments = [kind(column, name, mask) for (name, kind), column in zip(self.arrays, columns)]
        groups = _settings(settings, self.options) if settings else [(None, {})]
        rows = total if keep is None else int(keep.sum())
        if len(groups) == 1 and self.whole and _together(groups[0][1]):
            dense = [argument.all() for argument in arguments]
            if all(array is not None for array in dense):
                return self._result(self.compute(*dense, **groups[0][1]), total, keep)
        results: list[Any] = [None] * rows
        for chosen, options in groups:
            chosen = np.arange(rows) if chosen is None else chosen
            parts = _alike(arguments, chosen) if self.whole and _together(options) else None
            for part in parts or ():
                found = self.compute(*(argument.some(part) for argument in arguments), **options)
                for i, row in zip(part, found):
                    results[i] = row
            for i in chosen if parts is None else ():
                found = self.compute(*(argument.row(i) for argument in arguments), **options)
                results[i] = found[0] if self.compute is _route else found
        return self._result(results, total, keep)

    def _result(self, found, total, keep):
        if self.result not in ("DOUBLE", "DOUBLE[]"):
            rows = iter(found)
            kept = [next(rows) if keep is None or keep[i] else None for i in range(total)]
            return pa.array([x.tolist() if isinstance(x, np.ndarray) else x for x in kept], _ARROW[self.result])
        if self.result == "DOUBLE":
            values = np.asarray(found, np.float64)
            if keep is None:
                return pa.array(values)
            spread = np.zeros(total)
            spread[keep] = values
            return pa.array(spread, mask=~keep)
        if isinstance(found, np.ndarray):
            lengths = np.full(len(found), found.shape[1])
            flat = found.astype(np.float64).reshape(-1)
        else:
            lengths = np.array([len(x) for x in found])
            flat = np.concatenate(found).astype(np.float64) if found else np.zeros(0)
        if keep is not None:
            spread = np.zeros(total, lengths.dtype)
            spread[keep] = lengths
            lengths = spread
        starts = np.concatenate([[0], np.cumsum(lengths)])
        large = starts[-1] >= 2**31
        offsets = pa.array(starts, pa.int64() if large else pa.int32())
        lists = (pa.LargeListArray if large else pa.ListArray).from_arrays(
            offsets, pa.array(flat), mask=None if keep is None else pa.array(~keep)
        )
        return lists


_ARROW = {
    "DOUBLE": pa.float64(),
    "DOUBLE[]": pa.list_(pa.float64()),
    "DOUBLE[][]": pa.list_(pa.list_(pa.float64())),
    "STRUCT(expert_indices BIGINT[], expert_weights DOUBLE[])": pa.struct(
        {"expert_indices": pa.list_(pa.int64()), "expert_weights": pa.list_(pa.float64())}
    ),
}

_OPTIONS = ("attention_type", "options")
_QUERY, _KEYS, _VALUES = ("query", _Rows), ("keys", _Matrices), ("values", _Matrices)
_FUNCTIONS = {
    "score": _Function(_score, (_QUERY, ("key", _Rows)), _OPTIONS, "DOUBLE"),
    "scores": _Function(_scores, (_QUERY, _KEYS), _OPTIONS, "DOUBLE[]"),
    "attention": _Function(_attention, (_QUERY, _KEYS, _VALUES), _OPTIONS, "DOUBLE[]"),
    "cross": _Function(_cross, (("queries", _Matrices), _KEYS), _OPTIONS, "DOUBLE[][]", whole=False),
    "softmax": _Function(_softmax, (("scores", _Rows),), (), "DOUBLE[]"),
    "distance": _Function(_distance, (("a", _Rows), ("b", _Rows)), ("curvature",), "DOUBLE"),
    "sliding": _Function(_sliding, (("embeddings", _Matrices),), ("window_size", "stride"), "DOUBLE[][]", whole=False),
    "route": _Function(
        _route,
        (("embedding", _Rows),),
        ("num_experts", "top_k"),
        "STRUCT(expert_indices BIGINT[], expert_weights DOUBLE[])",
    ),
}


def _wrap(function):
    """DuckDB counts the parameters of what it is given."""
    return lambda *columns: function(*columns)


# What is registered lives as long as this module: DuckDB keeps a function for all connections of a database, but holds on to
# the object only as long as the connection that brought it is open, and then calls what is gone.
_CALLED = MappingProxyType(
    {f"_ruvector_{name}": (_wrap(function), function.result) for name, function in _FUNCTIONS.items()}
)


# Macros: public names, defaults, and the type of the elements ---------------------------------------------------------


def _quote(text):
    return "'" + text.replace("'", "''") + "'"


def _literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    return _quote(value) if isinstance(value, str) else repr(value)


def _call(name, arguments, elements, wrap="{}"):
    """A call whose result has the type that `elements` and FLOAT have together: integers and decimals count as FLOAT."""
    kind = wrap.format(" + ".join([*elements, "0::FLOAT"]))
    return f"cast_to_type(_ruvector_{name}({', '.join(arguments)}), {kind})"


def _columns(table, **names):
    """The columns of a table, given by name, under names of our own."""
    chosen = ", ".join(f"COLUMNS(lambda c: lower(c) = lower({name})) AS {alias}" for alias, name in names.items())
    return f"(SELECT {chosen} FROM query_table({table}))"


def _type_macros():
    """One function for each type that C runs."""
    attention = ["query[1]", "keys[1][1]", '"values"[1][1]']
    for record in records():
        name = "flash" if record.name == "flash_v2" else record.name
        own = {parameter.name: parameter.default for parameter in record.parameters}
        own.update(
            {
                key: default
                for key, default in (("causal", False), ("scale", None))
                if key not in _LACKS.get(record.name, ())
            }
        )
        defaults = "".join(f", {key} := {_literal(value)}" for key, value in own.items())
        given = "{" + ", ".join(f"'{key}': {key}" for key in own) + "}" if own else "NULL"
        arguments = ["query", "keys", '"values"', _quote(record.name), given]
        yield f'ruvector_{name}_attention(query, keys, "values"{defaults}) AS {_call("attention", arguments, attention, "[{}]")}'


def _macros():
    """The definitions, without CREATE MACRO."""
    version, types = (
        _quote(ruvector.__version__),
        ", ".join(
            f"({_quote(r.name)}, {_quote(r.complexity)}, {_quote(r.best_for)})" for r in ruvector.attention_types()
        ),
    )
    choice = "attention_type := 'scaled_dot', options := NULL"
    chosen = ["attention_type", "options"]
    heads = ["'multi_head'", "{'num_heads': num_heads}"]
    experts = "{{'expert_indices': [0::BIGINT], 'expert_weights': [{}]}}"
    triple = ["query", "keys", '"values"']
    yield f"ruvector_version() AS {version}"
    yield f"ruvector_attention_types() AS TABLE SELECT * FROM (VALUES {types}) types(name, complexity, best_for)"
    yield f"ruvector_softmax(scores) AS {_call('softmax', ['scores'], ['scores[1]'], '[{}]')}"
    yield f"ruvector_attention_score(query, key, {choice}) AS " + _call(
        "score", ["query", "key", *chosen], ["query[1]", "key[1]"]
    )
    yield f"ruvector_attention_scores(query, keys, {choice}) AS " + _call(
        "scores", ["query", "keys", *chosen], ["query[1]", "keys[1][1]"], "[{}]"
    )
    yield f'ruvector_attention(query, keys, "values", {choice}) AS ' + _call(
        "attention", [*triple, *chosen], ["query[1]", "keys[1][1]", '"values"[1][1]'], "[{}]"
    )
    yield "ruvector_hyperbolic_distance(a, b, curvature := 1.0) AS " + _call(
        "distance", ["a", "b", "curvature"], ["a[1]", "b[1]"]
    )
    yield "ruvector_moe_route(embedding, num_experts := 8, top_k := 2) AS " + _call(
        "route", ["embedding", "num_experts", "top_k"], ["embedding[1]"], experts
    )
    yield "ruvector_sliding_attention(embeddings, window_size := 256, stride := 128) AS TABLE " + (
        "SELECT unnest(range(len(merged)))::INTEGER AS position, unnest(merged) AS output FROM (SELECT "
        + _call("sliding", ["embeddings", "window_size", "stride"], ["embeddings[1][1]"], "[[{}]]")
        + " AS merged)"
    )
    yield from _type_macros()
    # rows come in the order of their keys, so that a result does not depend on where they lie
    yield (
        "ruvector_mha_search(table_name, query, num_heads := 8, k := 10, id_column := 'id', embedding_column := 'embedding') AS TABLE "
        + (
            "WITH found AS (SELECT list(id ORDER BY id) AS ids, list(embedding ORDER BY id) AS rows FROM "
            + _columns("table_name", id="id_column", embedding="embedding_column")
            + " WHERE embedding IS NOT NULL), weighed AS (SELECT unnest(ids) AS id, unnest("
            + _call("scores", ["query", "rows", *heads], ["query[1]", "rows[1][1]"], "[{}]")
            + ") AS score FROM found) SELECT id, score FROM weighed ORDER BY score DESC, id LIMIT k"
        )
    )
    # an edge that comes twice counts twice, for one node
    yield (
        "ruvector_gat_search(node_table, edge_table, query_node_id, num_heads := 4, k := 10, id_column := 'id', "
        "embedding_column := 'embedding', source_column := 'source', target_column := 'target') AS TABLE WITH nodes_ AS "
        + _columns("node_table", id="id_column", embedding="embedding_column")
        + ", edges_ AS "
        + _columns("edge_table", source="source_column", target="target_column")
        + ", own AS (SELECT any_value(embedding) AS row, CASE WHEN count(embedding) = 0 THEN error('query_node_id ' || "
        "query_node_id::VARCHAR || ' is no node with an embedding') END AS missing FROM nodes_ WHERE id = query_node_id)"
        ", near AS (SELECT source AS id, CASE WHEN embedding IS NULL THEN error('edge source ' || source::VARCHAR || "
        "' is no node with an embedding') ELSE embedding END AS embedding FROM edges_ LEFT JOIN nodes_ ON id = source "
        "WHERE target = query_node_id)"
        ", found AS (SELECT list(id ORDER BY id) AS ids, list(embedding ORDER BY id) AS rows FROM near)"
        ", weighed AS (SELECT unnest(ids) AS id, unnest("
        + _call("scores", ["row", "rows", *heads], ["row[1]", "rows[1][1]"], "[{}]")
        + ") AS weight FROM found, own WHERE missing IS NULL)"
        " SELECT id AS node_id, cast_to_type(sum(weight::DOUBLE), any_value(weight)) AS attention_score FROM weighed GROUP BY id "
        "ORDER BY attention_score DESC, node_id LIMIT k"
    )
    yield (
        "ruvector_cross_attention(query_table, query_column, document_table, document_column, attention_type := 'scaled_dot', "
        "k := NULL, query_id_column := 'id', document_id_column := 'id', options := NULL) AS TABLE WITH asked AS "
        "(SELECT list(id ORDER BY id) AS ids, list(embedding ORDER BY id) AS rows FROM "
        + _columns("query_table", id="query_id_column", embedding="query_column")
        + " WHERE embedding IS NOT NULL), held AS (SELECT list(id ORDER BY id) AS doc_ids, list(embedding ORDER BY id) AS doc_rows FROM "
        + _columns("document_table", id="document_id_column", embedding="document_column")
        + " WHERE embedding IS NOT NULL), weighed AS (SELECT unnest(ids) AS query_id, doc_ids, unnest("
        + _call("cross", ["rows", "doc_rows", *chosen], ["rows[1][1]", "doc_rows[1][1]"], "[[{}]]")
        + ") AS weights FROM asked, held), pairs AS (SELECT query_id, unnest(doc_ids) AS doc_id, unnest(weights) AS score FROM weighed)"
        " SELECT query_id, doc_id, score FROM pairs QUALIFY k IS NULL OR row_number() OVER (PARTITION BY query_id ORDER BY score DESC, "
        "doc_id) <= k ORDER BY query_id, score DESC, doc_id"
    )


def _known(con):
    return {name for (name,) in con.execute("SELECT function_name FROM duckdb_functions()").fetchall()}


def register(con):
    """Gives a DuckDB connection the SQL functions.

    Parameters
    ----------
    con : duckdb.DuckDBPyConnection

    Raises
    ------
    TypeError
        If `con` is no connection of DuckDB.

    Notes
    -----
    The macros are temporary: nothing of them is written into a database file, and each connection, one made by
    ``con.cursor()`` too, is registered on its own. To register again replaces them, with types that were added meanwhile.
    A call computes one batch of rows, 2048 at most, in O(its arrays) memory.

    Examples
    --------
    >>> import duckdb, ruvector.duckdb
    >>> with duckdb.connect() as con:
    ...     ruvector.duckdb.register(con)
    ...     con.execute("SELECT ruvector_attention_score([1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0])").fetchall()
    [(0.5,)]
    """
    if not isinstance(con, duckdb.DuckDBPyConnection):
        raise TypeError(f"con must be a connection of DuckDB, got {type(con).__name__}")
    # functions belong to the database, and all its connections see them
    known = _known(con)
    for name, (function, result) in _CALLED.items():
        if name in known:
            continue
        try:
            con.create_function(name, function, None, result, type="arrow", null_handling="special")
        except duckdb.CatalogException:
            if name not in _known(con):  # else another connection was faster
                raise
    for macro in _macros():
        con.execute(f"CREATE OR REPLACE TEMP MACRO {macro}").fetchall()
