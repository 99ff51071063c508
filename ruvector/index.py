"""Vectors under ids, searched by the score of an attention type."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ruvector import _archive, _coerce
from ruvector._archive import IndexFileError as IndexFileError
from ruvector._options import flag, number
from ruvector._ranking import Scorer, aligned, choice_of, count_of, heads_that_fit, rank
from ruvector._registry import AttentionType, canonical, record_of
from ruvector._rotary import RopeScaling
from ruvector.cache import _storage_dtype

_KIND = "index"
# Rows that are moved at a time when others are removed: their copy stays in the cache.
_MOVED = 1024
# From this part of the table on, all rows are scored and the hidden ones left out; below, the visible ones are copied first.
_GATHERED = 4


class SearchResult(NamedTuple):
    """What a search found, best first.

    Attributes
    ----------
    ids : ndarray, shape (..., k)
        int64, or str objects.
    scores : ndarray, shape (..., k)
        As `attention_score` gives them.
    weights : ndarray, shape (..., k), or None
        Their attention weights.
    """

    ids: np.ndarray
    scores: np.ndarray
    weights: np.ndarray | None


def _dtype_of(dtype):
    known = _storage_dtype(dtype)
    if known.char == "b":
        raise TypeError(f"dtype must be float32, float64, float16 or bfloat16, got {dtype!r}")
    return known


def _is_text(ids):
    return isinstance(ids, list)


def _ids_of(ids, name):
    """Ids as int64, or as a list of str."""
    if isinstance(ids, str) or not np.iterable(ids):
        ids = [ids]
    if not isinstance(ids, np.ndarray):
        ids = list(ids)
        if not ids:
            return np.empty(0, np.int64)
        if all(isinstance(each, str) for each in ids):
            return [str(each) for each in ids]
        return np.array([number(each, name, whole=True) for each in ids], np.int64)
    if ids.ndim > 1:
        raise ValueError(f"{name} must have one axis, got shape {ids.shape}")
    if ids.dtype.kind in "UTO":
        return _ids_of(np.ravel(ids).tolist(), name)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers or strings, got dtype {ids.dtype}")
    if ids.dtype.kind == "u" and ids.size and ids.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must be integers of 64 bits, got {ids.max()}")
    return np.array(ids, np.int64).reshape(-1)


def _plain_ids(ids):
    return ids if _is_text(ids) else ids.tolist()


def _distinct(ids, name):
    plain = _plain_ids(ids)
    if len(set(plain)) < len(plain):
        seen = set()
        twice = next(each for each in plain if each in seen or seen.add(each))
        raise ValueError(f"{name} must be distinct, got {twice!r} more than once")
    return plain


class AttentionIndex:
    """Vectors under ids, and exact search among them by the score of an attention type.

    Parameters
    ----------
    dim : int
        Width of the vectors, at least 1.
    attention_type : str or AttentionType, default "scaled_dot"
        A type that has a pairwise score: see `attention_score`.
    num_heads, head_dim : int, optional
        Heads of types that have them. Others only check that num_heads divides dim; with `head_dim`, that
        ``num_heads * head_dim`` is the width of a query.
    dtype : dtype, default float32
        How vectors are stored: float32, float64, float16 or bfloat16. The last two are computed with in float32.
    capacity : int, default 0
        Vectors to make room for at once; the room doubles when it is full.
    **params
        The type's own parameters, and `scale`.

    Attributes
    ----------
    dim, dtype, capacity
        As given; capacity grows.
    attention_type : AttentionType
        The type with the parameters given.
    query_dim : int
        Width of queries: dim, but for types whose keys have fewer heads.
    ids : ndarray, shape (len(index),)
        In the order of adding; int64, or str objects.
    vectors : ndarray, shape (len(index), dim)
        Read-only view of what is stored, valid until the next change.

    Raises
    ------
    UnknownAttentionType
        If no type has that name.
    TypeError
        For an option that the type does not have, or a dtype that cannot be stored.
    ValueError
        For sizes out of range, a type without a pairwise score, or heads that do not divide dim.

    See Also
    --------
    mha_search : ranks by the weights of several heads.
    ruvector.retrieval.rerank : several types one after the other.

    Notes
    -----
    Ids are integers of 64 bits or strings, all of one kind. ``index[id]`` is a vector, ``id in index`` tells whether it is there,
    iteration gives the ids, as for a dict.

    A search reads every vector once: O(n dim) for each query, limited by the bandwidth of memory for one and by arithmetic for
    many. A score is that of `attention_score`, within rounding; types of several heads score by one inner product, which is the
    mean over heads, and so do types that differ from those in what a position sees, since positions are taken as equal. Types
    with features (linear, performer, random_feature, additive) compute those of every vector once a search, for all queries.
    Scores depend on query and vector alone, to the bit: not on other vectors or queries, on filters or threads. Queries may run in
    several threads at once, changes may not.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> index = ruvector.AttentionIndex(4)
    >>> index.add(np.eye(4), ids=["north", "east", "south", "west"])
    array(['north', 'east', 'south', 'west'], dtype=object)
    >>> found = index.search([0.0, 2.0, 0.0, 1.0], k=2)
    >>> found.ids, found.scores, found.weights.round(4)
    (array(['east', 'west'], dtype=object), array([1. , 0.5], dtype=float32), array([0.4269, 0.2589], dtype=float32))
    >>> index.remove("east")
    >>> index.search([0.0, 2.0, 0.0, 1.0], k=1).ids
    array(['west'], dtype=object)
    """

    def __init__(
        self, dim, attention_type="scaled_dot", num_heads=None, *, head_dim=None, dtype=np.float32, capacity=0, **params
    ):
        dim = count_of(dim, "dim")
        capacity = number(capacity, "capacity", whole=True)
        if capacity < 0:
            raise ValueError(f"capacity must be at least 0, got {capacity}")
        dtype = _dtype_of(dtype)
        if max(dim, 1) * max(capacity, 1) > 2**47:
            raise ValueError(f"dim and capacity must be at most 2**47 elements together, got {dim} and {capacity}")
        name = canonical(attention_type.name if isinstance(attention_type, AttentionType) else attention_type)
        options = {"num_heads": num_heads, "head_dim": head_dim}
        for key, value in options.items():
            options[key] = None if value is None else count_of(value, key)
        if num_heads is not None and any(p.name == "num_heads" for p in record_of(name).parameters):
            params["num_heads"] = num_heads
        elif num_heads is not None:
            heads_that_fit(dim, options["num_heads"])
        self._scorer = Scorer(attention_type, dim, params)
        if head_dim is not None:
            heads = options["num_heads"] or self._scorer.num_heads
            if heads * options["head_dim"] != self._scorer.query_dim:
                raise ValueError(
                    f"num_heads * head_dim must be {self._scorer.query_dim}, the width of a query, got {heads} * {head_dim}"
                )
        self._heads = options
        self.dim, self.dtype = dim, dtype
        self._count = 0
        self._ids = np.empty(0, np.int64)
        self._places = {}
        self._vectors = aligned((capacity, dim), dtype)

    # What it holds

    @property
    def attention_type(self):
        """The type with the parameters given."""
        return self._scorer.type

    @property
    def query_dim(self):
        """Width of queries."""
        return self._scorer.query_dim

    @property
    def capacity(self):
        """Vectors that there is room for."""
        return len(self._vectors)

    @property
    def ids(self):
        """Ids in the order of adding."""
        return self._named(np.arange(self._count))

    @property
    def vectors(self):
        """Read-only view of the vectors, valid until the next change."""
        view = self._vectors[: self._count]
        view.flags.writeable = False
        return view

    def __len__(self):
        return self._count

    def __iter__(self) -> Iterator:
        return iter(_plain_ids(self._ids if _is_text(self._ids) else self._ids[: self._count]))

    def __contains__(self, id):
        return isinstance(id, (str, int, np.integer)) and not isinstance(id, bool) and id in self._where()

    def __getitem__(self, id):
        """A copy of the vector of an id; KeyError where there is none."""
        return np.array(self._vectors[self._found(id, "id")[0]])

    def __repr__(self):
        return f"<AttentionIndex of {self._count} vectors of width {self.dim}, {self.dtype}, {self.attention_type!r}>"

    def _named(self, places):
        """The ids of places, in their shape."""
        if not _is_text(self._ids):
            return self._ids[places]
        names = np.empty(np.size(places), object)
        names[:] = [self._ids[place] for place in np.ravel(places)]
        return names.reshape(np.shape(places))

    def _where(self):
        """Id -> place; made when it is first asked for."""
        if self._places is None:
            self._places = {each: place for place, each in enumerate(self)}
            if len(self._places) != self._count:
                raise IndexFileError("the file holds an id more than once")
        return self._places

    def _found(self, ids, name):
        """The places of ids; KeyError for one that is not there, ValueError for one that comes twice."""
        where, plain = self._where(), _distinct(_ids_of(ids, name), name)
        try:
            return np.array([where[each] for each in plain], np.int64)
        except KeyError as error:
            raise KeyError(f"{name}: there is no id {error.args[0]!r} in this index") from None

    def _rows(self, vectors, name="vectors"):
        """Vectors (m, dim) in the index's type."""
        given = _coerce.array(vectors, name)
        if given.ndim not in (1, 2):
            raise ValueError(f"{name} must have shape (n, {self.dim}) or ({self.dim},), got {given.shape}")
        if given.shape[-1] != self.dim:
            raise ValueError(f"Query and key dimensions must match: {given.shape[-1]} vs {self.dim}")
        given = given.reshape(-1, self.dim)
        with np.errstate(over="ignore"):
            rows = given.astype(self.dtype, copy=False)
        if rows.dtype != given.dtype:
            lost = np.isinf(rows.astype(_coerce.computed_in(self.dtype), copy=False)) & np.isfinite(given)
            if lost.any():
                raise ValueError(f"{name} holds {given[lost][0]}, which {self.dtype} does not")
        self._scorer.check(rows, name)
        return rows

    # Changes

    def _reserve(self, count):
        """Room for so many vectors, in memory of the index's own."""
        if count <= self.capacity and self._vectors.flags.writeable:
            return
        more = max(count, 2 * self.capacity) if count > self.capacity else self.capacity
        grown = aligned((more, self.dim), self.dtype)
        grown[: self._count] = self._vectors[: self._count]
        self._vectors = grown

    def add(self, vectors, ids=None):
        """Adds vectors behind those that are there.

        Parameters
        ----------
        vectors : array_like, shape (n, dim) or (dim,)
            NaN and infinity are stored as they are; a vector whose score is NaN ranks behind all others.
        ids : sequence of int or of str, or one of them, optional
            Distinct, and new to the index; all of a kind. The integers that follow the largest so far when None, from 0 on.

        Returns
        -------
        ndarray, shape (n,)
            The ids.

        Raises
        ------
        TypeError
            For ids that are neither integers nor strings, or not of the kind of those that are there; for None where those are
            strings; for vectors that are not real.
        ValueError
            For an id that is there or comes twice, a width that is not dim, numbers that the index's dtype does not hold, or rows
            that are no points of a hyperbolic type's space. The index is as it was then.
        """
        rows = self._rows(vectors)
        text = self._count > 0 and _is_text(self._ids)
        if ids is None:
            if text:
                raise TypeError("ids must be given: those of this index are strings")
            start = int(self._ids[: self._count].max()) + 1 if self._count else 0
            if start + len(rows) > 2**63:
                raise ValueError(f"ids must be given: there are no {len(rows)} integers of 64 bits behind {start - 1}")
            ids = np.arange(start, start + len(rows), dtype=np.int64)
        else:
            ids = _ids_of(ids, "ids")
        if len(ids) != len(rows):
            raise ValueError(f"ids must be one for each of the {len(rows)} vectors, got {len(ids)}")
        if self._count and len(ids) and _is_text(ids) != text:
            raise TypeError(
                f"ids must be {'strings' if text else 'integers'}, as those of this index are, got {ids[0]!r}"
            )
        plain, where = _distinct(ids, "ids"), self._where()
        for each in plain:
            if each in where:
                raise ValueError(f"ids must be new, got {each!r}, which is in this index; update changes its vector")
        if not plain:
            return self._named(np.arange(0))
        count = self._count + len(rows)
        self._reserve(count)
        self._vectors[self._count : count] = rows
        if _is_text(ids):
            self._ids = self._ids if text else []
            self._ids.extend(ids)
        else:
            if not self._count or len(self._ids) < count:
                grown = np.empty(self.capacity, np.int64)
                grown[: self._count] = self._ids[: self._count]
                self._ids = grown
            self._ids[self._count : count] = ids
        where.update(zip(plain, range(self._count, count)))
        self._count = count
        return self._named(np.arange(count - len(rows), count))

    def update(self, ids, vectors):
        """Puts other vectors in the place of those of some ids.

        Parameters
        ----------
        ids : sequence of int or of str, or one of them
            Distinct ids of the index.
        vectors : array_like, shape (n, dim), or (dim,) for one

        Raises
        ------
        KeyError
            For an id that is not there.
        TypeError, ValueError
            As in `add`. The index is as it was then.
        """
        rows, places = self._rows(vectors), self._found(ids, "ids")
        if len(places) != len(rows):
            raise ValueError(f"ids must be one for each of the {len(rows)} vectors, got {len(places)}")
        self._reserve(self._count)
        self._vectors[places] = rows

    def remove(self, ids):
        """Takes vectors out; those behind them move up, in their order.

        Parameters
        ----------
        ids : sequence of int or of str, or one of them
            Distinct ids of the index.

        Raises
        ------
        KeyError
            For an id that is not there. The index is as it was then.
        TypeError, ValueError
            For ids that are neither integers nor strings, or that come twice.

        Notes
        -----
        Moves all vectors behind the first one removed: many ids in one call cost as much as one.
        """
        places = self._found(ids, "ids")
        if not len(places):
            return
        self._reserve(self._count)
        kept = np.ones(self._count, bool)
        kept[places] = False
        kept = np.flatnonzero(kept)
        first = int(places.min())
        for start in range(first, len(kept), _MOVED):
            part = kept[start : start + _MOVED]
            self._vectors[start : start + len(part)] = self._vectors[part]
        ids = self._named(kept)
        self._ids = ids.tolist() if _is_text(self._ids) else ids
        self._count, self._places = len(kept), None

    # Search

    def _visible(self, filter):
        """The places that a filter leaves, None for all."""
        if filter is None:
            return None
        if callable(filter):
            filter = np.asarray(filter(self.ids))
            if filter.dtype != bool or filter.shape != (self._count,):
                raise ValueError(
                    f"filter must return a boolean array of shape ({self._count},), got {filter.dtype} of {filter.shape}"
                )
        if isinstance(filter, np.ndarray) and filter.dtype == bool:
            if filter.shape != (self._count,):
                raise ValueError(f"filter must have shape ({self._count},), one for each id, got {filter.shape}")
            return np.flatnonzero(filter)
        if isinstance(filter, str) or not np.iterable(filter):
            raise TypeError(f"filter must be a boolean array, ids or a function of ids, got {filter!r}")
        return np.sort(self._found(filter, "filter"))

    def search(self, queries, k=10, *, filter=None, weights="table"):
        """The k vectors with the largest scores.

        Parameters
        ----------
        queries : array_like, shape (query_dim,) or (..., query_dim)
            Converted to the type of the arithmetic: float32, float64 for an index of that.
        k : int, default 10
            At least 1; fewer are found where there are fewer.
        filter : array of bool, shape (len(index),), or sequence of ids, or callable, optional
            What may be found: True in the order of `ids`; or these ids; or where ``filter(index.ids)`` is True.
        weights : {"table", "results", None}, default "table"
            Attention weights over all vectors that may be found, as `attention_scores` gives them at equal positions; over the
            results alone, which makes them sum to 1 where the type's do; or none.

        Returns
        -------
        SearchResult
            ids, scores and weights, each (..., k): largest score first, of equal ones the vector added first. Vectors whose
            score is NaN come last, with weight 0. Scores and weights are float32, float64 for an index of that.

        Raises
        ------
        KeyError
            For an id in `filter` that is not there.
        TypeError, ValueError
            For queries of another width or not real, and options that do not fit.
        """
        k, weights = count_of(k), choice_of(weights)
        rows, lead = self._scorer.queries(queries, self.dtype)
        visible = self._visible(filter)
        table, only = self.vectors, None
        if visible is not None and (self._scorer.split or self._scorer.weighs or len(visible) * _GATHERED < len(table)):
            table = aligned((len(visible), self.dim), self.dtype)
            np.take(self.vectors, visible, 0, out=table)
        elif visible is not None:
            only = visible
        places, scores, shares = rank(self._scorer, rows, table, k, weights, only)
        if visible is not None:
            places = visible[places]
        shape = (*lead, places.shape[-1])
        return SearchResult(
            self._named(places).reshape(shape), scores.reshape(shape), None if shares is None else shares.reshape(shape)
        )

    # Files

    def save(self, path):
        """Writes the index to a file, which is replaced whole or not at all.

        Parameters
        ----------
        path : str or path-like
            An npz file; its name is taken as it is.

        Raises
        ------
        TypeError
            For a type with a parameter that files cannot hold, such as a graph.
        OSError
            If the file cannot be written. An older file is untouched then.

        Notes
        -----
        A file without pickle that `numpy.load` reads as well: vectors and ids as they are, and a checksum over every byte. It is
        written beside `path`, synchronised with the disk and renamed, and so is its folder: whoever reads `path`, at any time and
        after a crash, finds the old file or the new one. A process that is killed while it saves leaves a file
        ``.<name>.<random>.tmp`` behind, which the next save under that name removes where files have locks; on Windows it stays.
        """
        parameters, arrays = {}, {}
        for name, value in self.attention_type.params.items():
            if isinstance(value, RopeScaling):
                value = {key: each for key, each in dataclasses.asdict(value).items() if each is not None}
            if isinstance(value, np.ndarray):
                arrays[f"parameter.{name}"] = value
            elif value is None or isinstance(value, (bool, int, float, str, dict)):
                parameters[name] = value
            else:
                raise TypeError(f"an index whose {name} is a {type(value).__name__} cannot be saved")
        if _is_text(self._ids):
            names = [each.encode("utf-8", "surrogatepass") for each in self._ids]
            arrays["names"] = np.frombuffer(b"".join(names), np.uint8)
            arrays["ends"] = np.cumsum([len(each) for each in names], dtype=np.int64)
        else:
            arrays["ids"] = self._ids[: self._count]
        vectors = self._vectors[: self._count]
        # numpy.load knows no bfloat16
        arrays["vectors"] = vectors.view(np.uint16) if _coerce.is_bfloat16(self.dtype) else vectors
        facts = {
            "dim": self.dim,
            "dtype": self.dtype.name,
            "attention_type": self.attention_type.name,
            "parameters": parameters,
            **self._heads,
        }
        _archive.save(path, _KIND, facts, arrays)

    @classmethod
    def load(cls, path, *, mmap=False, verify=True):
        """An index from a file that `save` wrote.

        Parameters
        ----------
        path : str or path-like
        mmap : bool, default False
            Leave the vectors in the file, which is mapped into memory: pages are read when a search comes to them, and shared by
            all processes. The first change copies the vectors.
        verify : bool, default True
            Compare the checksum, which reads the whole file. Without it only what is no index at all is refused.

        Returns
        -------
        AttentionIndex

        Raises
        ------
        IndexFileError
            A ValueError: for a file that is damaged, cut off, something else, or of a later version.
        OSError
            If the file cannot be read.
        """
        facts, arrays = _archive.load(path, _KIND, mmap=flag(mmap, "mmap"), verify=flag(verify, "verify"))
        try:
            extra = {name.removeprefix("parameter."): x for name, x in arrays.items() if name.startswith("parameter.")}
            index = cls(
                facts["dim"],
                facts["attention_type"],
                head_dim=facts["head_dim"],
                dtype=facts["dtype"],
                **{"num_heads": facts["num_heads"], **facts["parameters"]},
                **extra,
            )
            vectors = arrays["vectors"]
            if _coerce.is_bfloat16(index.dtype):
                vectors = vectors.view(index.dtype)
            if vectors.dtype != index.dtype or vectors.ndim != 2 or vectors.shape[1] != index.dim:
                raise ValueError(
                    f"vectors are {vectors.dtype} of shape {vectors.shape}, not {index.dtype} of width {index.dim}"
                )
            if "names" in arrays:
                names, ends = arrays["names"].tobytes(), arrays["ends"].tolist()
                ids = [names[a:b].decode("utf-8", "surrogatepass") for a, b in zip([0, *ends], ends)]
            else:
                ids = np.array(arrays["ids"], np.int64)
            if len(ids) != len(vectors):
                raise ValueError(f"{len(ids)} ids for {len(vectors)} vectors")
        except (KeyError, TypeError, ValueError) as error:
            raise IndexFileError(f"{path} cannot be read as a ruvector {_KIND}: {error}") from error
        index._vectors, index._ids, index._count, index._places = vectors, ids, len(ids), None
        return index
