"""Graphs as edges sorted by target."""

from __future__ import annotations

import numpy as np

from ruvector import _coerce, _graph
from ruvector._options import number

# Positions and nodes are 32-bit integers in the core.
MOST_EDGES = 2**31 - 1


def edge_list(edge_index, name="edge_index"):
    """Sources and targets, contiguous and of one type, int32 or int64."""
    array = _coerce.whole_array(edge_index, name)
    if array.dtype.kind not in "iu" and not (array.size == 0 and array is not edge_index):
        raise TypeError(f"{name} has dtype {array.dtype}; expected an integer dtype")
    if array.ndim != 2 or array.shape[0] != 2:
        raise ValueError(f"{name} must have shape (2, E), sources and targets, got {array.shape}")
    if array.dtype == np.uint64:
        # as int64 they would come back negative
        far = np.argwhere(array > np.uint64(2**63 - 1))
        if len(far):
            at = tuple(far[0].tolist())
            raise IndexError(
                f"{name}[{at[0]}, {at[1]}] is {array[at]}, out of range: no node has a number past 63 bits"
            )
    dtype = np.int32 if array.dtype == np.int32 else np.int64
    source, target = np.ascontiguousarray(array[0], dtype), np.ascontiguousarray(array[1], dtype)
    return np.require(source, dtype, "A"), np.require(target, dtype, "A")


def _node_counts(num_nodes):
    pair = num_nodes if isinstance(num_nodes, tuple) else (num_nodes, num_nodes)
    if len(pair) != 2:
        raise ValueError(f"num_nodes must be a number or a pair (sources, targets), got {num_nodes!r}")
    counts = [number(n, "num_nodes", whole=True) for n in pair]
    if min(counts) < 0 or max(counts) > MOST_EDGES:
        raise ValueError(f"num_nodes must be between 0 and {MOST_EDGES}, got {num_nodes!r}")
    return counts


class CSRGraph:
    """A graph whose edges are sorted by target: sorted once, used in many calls.

    Made by `from_coo` or `from_csr`; accepted wherever an `edge_index` is. Graphs are values: immutable, comparable, hashable
    and picklable.

    Attributes
    ----------
    num_sources, num_targets : int
        Nodes on either side; the same nodes unless the graph is bipartite.
    indptr : ndarray of int32, shape (num_targets + 1,)
        The edges into target i are ``indices[indptr[i]:indptr[i + 1]]``.
    indices : ndarray of int32, shape (num_edges,)
        Their sources.

    Notes
    -----
    A counting sort, O(edges + targets), that keeps the order of the edges of each target; at most 2**31 - 1 edges and nodes.

    Examples
    --------
    >>> import ruvector
    >>> graph = ruvector.CSRGraph.from_coo([[0, 2, 1], [1, 1, 0]], num_nodes=3)
    >>> graph.indices, graph.indptr
    (array([1, 0, 2], dtype=int32), array([0, 1, 3, 3], dtype=int32))
    """

    __slots__ = ("num_sources", "num_targets", "indptr", "indices", "_order", "_kept", "_given")

    # _order: numbers of the sorted edges in the list they came as, None for sorted itself. With self-loops, _given is the
    # length of the list without them and _kept says which of its edges remain, None for all; otherwise _given is None.

    def __init__(self):
        raise TypeError("a CSRGraph is made by CSRGraph.from_coo or CSRGraph.from_csr")

    @classmethod
    def _make(cls, *fields):
        self = object.__new__(cls)
        for name, value in zip(cls.__slots__, fields):
            object.__setattr__(self, name, value)
        for array in (self.indptr, self.indices, self._order):
            if array is not None:
                array.flags.writeable = False
        return self

    @classmethod
    def _sorted(cls, source, target, sources, targets, loops, numbered):
        if len(source) + (min(sources, targets) if loops else 0) > MOST_EDGES:
            raise ValueError(f"a graph has at most {MOST_EDGES} edges, got {len(source)}")
        indptr, indices, order = _graph.sort(source, target, sources, targets, loops, numbered)
        kept = given = None
        if loops:
            given = len(source)
            if len(indices) != given + min(sources, targets):
                kept = np.flatnonzero(source != target)
        return cls._make(sources, targets, indptr, indices, order, kept, given)

    @classmethod
    def from_coo(cls, edge_index, num_nodes=None):
        """Sorts a list of edges.

        Parameters
        ----------
        edge_index : array_like of int, shape (2, E)
            Sources in the first row, targets in the second; an edge that comes twice counts twice.
        num_nodes : int or (int, int), optional
            Nodes, or sources and targets of a bipartite graph; one more than the largest index when None.

        Returns
        -------
        CSRGraph

        Raises
        ------
        TypeError
            For indices that are not integers.
        ValueError
            For another shape.
        IndexError
            For an index out of range, naming the edge.
        """
        source, target = edge_list(edge_index)
        if num_nodes is None:
            num_nodes = int(max(source.max(initial=-1), target.max(initial=-1))) + 1
        return cls._sorted(source, target, *_node_counts(num_nodes), False, True)

    @classmethod
    def from_csr(cls, indptr, indices, num_nodes=None):
        """A graph whose edges are sorted already.

        Parameters
        ----------
        indptr : array_like of int, shape (targets + 1,)
            Rises from 0 to the number of edges.
        indices : array_like of int, shape (E,)
            The sources of the edges of target 0, then of target 1, and so on.
        num_nodes : int or (int, int), optional
            As many sources as targets when None.

        Returns
        -------
        CSRGraph

        Raises
        ------
        TypeError, ValueError, IndexError
            As in `from_coo`; ValueError for an `indptr` that does not rise from 0 to E.
        """
        indptr, indices = _coerce.csr_lists(indptr, indices)
        targets = len(indptr) - 1
        sources, wanted = _node_counts((targets, targets) if num_nodes is None else num_nodes)
        if wanted != targets:
            raise ValueError(f"num_nodes gives {wanted} targets, indptr {targets}")
        if len(indices) > MOST_EDGES:
            raise ValueError(f"a graph has at most {MOST_EDGES} edges, got {len(indices)}")
        _coerce.csr_range(indices, sources, "source nodes")
        return cls._make(sources, targets, indptr.astype(np.int32), indices.astype(np.int32), None, None, None)

    def __setattr__(self, name, value):
        raise AttributeError("a CSRGraph cannot be changed")

    @property
    def num_edges(self):
        """Edges, self-loops included."""
        return len(self.indices)

    @property
    def num_nodes(self):
        """The number of nodes, or the pair (sources, targets) where they differ."""
        both = self.num_sources, self.num_targets
        return both if both[0] != both[1] else both[0]

    @property
    def edge_index(self):
        """The edges as int64 of shape (2, num_edges), in the order of the list they came as."""
        edges = np.empty((2, self.num_edges), np.int64)
        where = slice(None) if self._order is None else self._order
        edges[0, where] = self.indices
        edges[1, where] = np.repeat(np.arange(self.num_targets), np.diff(self.indptr))
        return edges

    def with_self_loops(self):
        """The graph with one edge from each node to itself, behind its other edges, in place of those that it has.

        Returns
        -------
        CSRGraph
            In a bipartite graph, nodes of the same number on both sides are the same. `edge_attr` of the graph as it was still
            fits: loops get the mean over the edges into their node.
        """
        if self._given is not None:
            return self
        source, target = self.edge_index
        return CSRGraph._sorted(source, target, self.num_sources, self.num_targets, True, True)

    def _key(self):
        order = b"" if self._order is None else self._order.tobytes()
        kept = b"" if self._kept is None else self._kept.tobytes()
        return (
            self.num_sources,
            self.num_targets,
            self.indptr.tobytes(),
            self.indices.tobytes(),
            order,
            kept,
            self._given,
        )

    def __eq__(self, other):
        return self._key() == other._key() if isinstance(other, CSRGraph) else NotImplemented

    def __hash__(self):
        return hash(self._key())

    def __reduce__(self):
        return _remake, tuple(getattr(self, name) for name in self.__slots__)

    def __repr__(self):
        return f"<CSRGraph: {self.num_edges} edges, {self.num_sources} sources, {self.num_targets} targets>"


def _remake(*fields):
    return CSRGraph._make(*(f.copy() if isinstance(f, np.ndarray) else f for f in fields))


def graph_of(edge_index, sources, targets, loops, numbered):
    """The graph of a call on so many nodes; `numbered`: its edges' numbers are needed."""
    if isinstance(edge_index, CSRGraph):
        if (edge_index.num_sources, edge_index.num_targets) != (sources, targets):
            raise ValueError(
                f"the graph has {edge_index.num_sources} source and {edge_index.num_targets} target nodes, "
                f"the features {sources} and {targets}"
            )
        return edge_index.with_self_loops() if loops else edge_index
    return CSRGraph._sorted(*edge_list(edge_index), sources, targets, loops, numbered)
