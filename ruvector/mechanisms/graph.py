"""Graph attention: GAT and GATv2, their layer, and the search among in-neighbours."""

from __future__ import annotations

import numpy as np

from ruvector import _coerce, _graph
from ruvector._options import flag, number, probability
from ruvector._random import glorot, seed_of
from ruvector.csr import graph_of
from ruvector._scores import attention_scores
from ruvector._docstrings import documented

_MOST_HEADS = 1024


def _edge_rows(graph, edge_attr, w_edge, heads, width):
    """edge_attr with two axes, checked with its projection."""
    if w_edge.ndim != 3 or (w_edge.shape[0], w_edge.shape[2]) != (heads, width):
        raise ValueError(f"w_edge must have shape ({heads}, edge_dim, {width}), got {w_edge.shape}")
    rows = edge_attr[:, None] if edge_attr.ndim == 1 else edge_attr
    edges = graph.num_edges if graph._given is None else graph._given
    if rows.shape != (edges, w_edge.shape[1]):
        raise ValueError(f"edge_attr must have shape ({edges}, {w_edge.shape[1]}), got {edge_attr.shape}")
    return rows


def _with_loops(graph, rows):
    """One row for each edge of the graph from one for each edge given: a self-loop's is the mean over the edges into its node."""
    if graph._given is None:
        return rows
    if graph._kept is not None:
        rows = rows[graph._kept]
    both = min(graph.num_sources, graph.num_targets)
    target = np.empty(graph.num_edges, np.int64)
    target[graph._order] = np.repeat(np.arange(graph.num_targets), np.diff(graph.indptr))
    target = target[: len(rows)]
    count = np.maximum(np.bincount(target, minlength=both)[:both], 1)
    loops = np.empty((both, rows.shape[1]), rows.dtype)
    for i in range(rows.shape[1]):
        loops[:, i] = np.bincount(target, rows[:, i], both)[:both] / count
    return np.concatenate([rows, loops])


def _pair(x, name, axes):
    """(a, b) from a pair of arrays with so many axes, (x, x) from anything else."""
    if isinstance(x, tuple) and len(x) == 2 and all(np.ndim(part) == axes for part in x):
        return _coerce.array(x[0], f"{name}[0]"), _coerce.array(x[1], f"{name}[1]")
    x = _coerce.array(x, name)
    return x, x


def _optional(array, name):
    return None if array is None else _coerce.array(array, name)


def _together(**options):
    """Whether these are given, all of them or none."""
    missing = [name for name, value in options.items() if value is None]
    if missing and len(missing) < len(options):
        raise ValueError(f"{', '.join(options)} go together; missing: {', '.join(missing)}")
    return not missing


def _shaped(array, shape, name):
    if array is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")


def _check_weights(w, x, name, x_name):
    if w.ndim != 3 or 0 in (w.shape[0], w.shape[2]) or w.shape[0] > _MOST_HEADS:
        raise ValueError(f"{name} must have shape (heads, in, out) with 1 to {_MOST_HEADS} heads, got {w.shape}")
    if x.ndim != 2:
        raise ValueError(f"{x_name} must have shape (N, {w.shape[1]}), got {x.shape}")
    if x.shape[1] != w.shape[1]:
        raise ValueError(f"{x_name} has width {x.shape[1]}, {name} takes {w.shape[1]} (shape {w.shape})")


class _Call:
    """What gat and gatv2 share: one dtype for everything, options checked, then the kernel."""

    __slots__ = ("dtype", "compute", "slope", "mean", "loops", "dropout", "seed", "want")

    def __init__(
        self, arrays, negative_slope, concat, add_self_loops, dropout, training, rng, return_attention_weights
    ):
        self.dtype = _coerce._promote([a for a in arrays if a is not None])
        self.compute = np.dtype(np.float64) if self.dtype == np.float64 else np.dtype(np.float32)
        self.slope = number(negative_slope, "negative_slope")
        self.mean = not flag(concat, "concat")
        self.loops = flag(add_self_loops, "add_self_loops")
        dropout = probability(dropout, "dropout")
        self.dropout = dropout if flag(training, "training") else 0.0
        self.seed = _coerce.dropout_seed(rng) if self.dropout else 0
        self.want = flag(return_attention_weights, "return_attention_weights")

    def cast(self, array):
        return _coerce.plain(array, self.compute)

    def project(self, x, w):
        """``x @ w`` for every head, side by side."""
        w = w[0] if len(w) == 1 else w.transpose(1, 0, 2).reshape(w.shape[1], w.shape[0] * w.shape[2])
        return _coerce.matmul(self.cast(x), self.cast(w), _coerce.aligned((len(x), w.shape[1]), self.compute))

    def run(self, version, heads, query, key, value, graph, a_target, a_source, edge, w_edge, bias):
        width = value.shape[1] // heads
        out = np.empty((len(query), width if self.mean else heads * width), self.compute)
        weights = np.empty((graph.num_edges, heads), self.compute) if self.want else None
        vectors = (a_target, a_source, w_edge, bias)
        a_target, a_source, w_edge, bias = (
            None if a is None else np.ascontiguousarray(a, self.compute) for a in vectors
        )
        _graph.attend(
            version,
            heads,
            query,
            key,
            value,
            out,
            graph.indptr,
            graph.indptr[1:],
            graph.indices,
            graph._order,
            a_target,
            a_source,
            edge,
            w_edge,
            None,
            bias,
            weights,
            self.mean,
            self.slope,
            1.0,
            self.dropout,
            self.seed,
        )
        out = out.astype(self.dtype, copy=False)
        return (out, (graph.edge_index, weights.astype(self.dtype, copy=False))) if self.want else out


_GRAPH_OPTIONS = """bias : array_like, shape (heads * out,), or (out,) without `concat`, optional
        Added at the end, to isolated nodes too.
    edge_attr : array_like, shape (E, edge_dim) or (E,), optional
        Features of the edges, in the order of `edge_index`. Self-loops that are added get the mean over the other edges into
        their node, 0 where there is none.
    w_edge : array_like, shape (heads, edge_dim, out), optional
        Projection of `edge_attr`.{a_edge}
    negative_slope : float, default 0.2
        Of LeakyReLU: ``x`` where positive, ``negative_slope * x`` elsewhere.
    concat : bool, default True
        Concatenate the heads' outputs; their mean when False.
    add_self_loops : bool, default False
        Leave out the edges from a node to itself and add one for every node.
    dropout : float, default 0.0
        Share of coefficients dropped when `training`, the rest scaled by ``1 / (1 - dropout)``.
    training : bool, default False
    rng : numpy.random.Generator or seed, optional
        Needed by dropout.
    return_attention_weights : bool, default False
        Also return the edges and their coefficients.

    Returns
    -------
    ndarray, shape (N, heads * out), or (N, out) without `concat`
        In the inputs' dtype (NumPy's promotion; integers and booleans become float64).
    (edge_index, weights) : tuple of ndarray, shapes (2, E) and (E, heads)
        With `return_attention_weights`: edges in the order given, self-loops that were added behind them; weights after dropout.

    Raises
    ------
    TypeError
        For a dtype that is not real, indices that are not integers, or an option of the wrong type.
    ValueError
        For shapes that do not fit, and options out of their range.
    IndexError
        For an index out of range, naming the edge, before anything is computed."""


def _documented(a_edge):
    return lambda function: documented(function, options=_GRAPH_OPTIONS.replace("{a_edge}", a_edge))


@_documented("""
    a_edge : array_like, shape (heads, out), optional
        What weighs projected edge features in the logits; needed with them.""")
def gat(
    x,
    edge_index,
    w,
    a_src,
    a_dst,
    *,
    bias=None,
    edge_attr=None,
    w_edge=None,
    a_edge=None,
    negative_slope=0.2,
    concat=True,
    add_self_loops=False,
    dropout=0.0,
    training=False,
    rng=None,
    return_attention_weights=False,
):
    """Graph attention: every node takes the mean of its in-neighbours, weighted by what both ends bring to a softmax.

    Parameters
    ----------
    x : array_like, shape (N, in), or a pair of them
        Features of the nodes; of a bipartite graph, of sources and of targets.
    edge_index : array_like of int, shape (2, E), or CSRGraph
        Sources and targets. An edge that comes twice counts twice.
    w : array_like, shape (heads, in, out), or a pair of them
        Projections; one for sources and one for targets where they differ.
    a_src, a_dst : array_like, shape (heads, out)
        What weighs projected sources and targets in the logits.
    {options}

    See Also
    --------
    GATLayer : holds the weights.
    CSRGraph : sorts the edges once, for many calls.

    Notes
    -----
    With ``h = x @ w[head]``, ``out_i = sum_j alpha_ij h_j`` over the edges j -> i, where ``alpha_ij`` is the softmax over them of
    ``LeakyReLU(a_src . h_j + a_dst . h_i + a_edge . (edge_attr_ij @ w_edge[head]))`` [1]_. A node without edges gives 0. NaN in
    a node's features reaches the nodes that its edges lead to, and itself if it has any in-edge.

    O(E heads out) after the projections, which are NumPy's matmul. Memory beyond them: the sorted edges and, with edge features,
    a number for each edge and head. The result is within ``u * max|h| * (8 + 4 kappa)`` of exact arithmetic on the projections,
    kappa the size of the logits' terms, whatever the degree, and the same to the bit for any number of threads.

    References
    ----------
    .. [1] Velickovic et al., Graph Attention Networks, arXiv:1710.10903

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x, w = np.eye(3), np.ones((1, 3, 1)) * [[1], [2], [4]]
    >>> ruvector.gat(x, [[0, 1, 2], [2, 2, 0]], w, [[0.0]], [[0.0]])
    array([[4. ],
           [0. ],
           [1.5]])
    """
    x_src, x_dst = _pair(x, "x", 2)
    w_src, w_dst = _pair(w, "w", 3)
    a_src, a_dst = _coerce.array(a_src, "a_src"), _coerce.array(a_dst, "a_dst")
    bias, edge_attr = _optional(bias, "bias"), _optional(edge_attr, "edge_attr")
    w_edge, a_edge = _optional(w_edge, "w_edge"), _optional(a_edge, "a_edge")
    arrays = (x_src, x_dst, w_src, w_dst, a_src, a_dst, bias, edge_attr, w_edge, a_edge)
    call = _Call(arrays, negative_slope, concat, add_self_loops, dropout, training, rng, return_attention_weights)
    shared = x_dst is x_src and w_dst is w_src
    _check_weights(w_src, x_src, "w" if w_src is w_dst else "w[0]", "x" if x_src is x_dst else "x[0]")
    heads, _, width = w_src.shape
    if not shared:
        _check_weights(w_dst, x_dst, "w" if w_src is w_dst else "w[1]", "x" if x_src is x_dst else "x[1]")
        _shaped(w_dst, (heads, w_dst.shape[1], width), "w[1]")
    _shaped(a_src, (heads, width), "a_src")
    _shaped(a_dst, (heads, width), "a_dst")
    _shaped(bias, (width if call.mean else heads * width,), "bias")
    edges = _together(edge_attr=edge_attr, w_edge=w_edge, a_edge=a_edge)
    graph = graph_of(edge_index, len(x_src), len(x_dst), call.loops, edges or call.want)
    terms = None
    if edges:
        edge_attr = _edge_rows(graph, edge_attr, w_edge, heads, width)
        _shaped(a_edge, (heads, width), "a_edge")
        folded = _coerce.matmul(call.cast(w_edge), call.cast(a_edge)[:, :, None])[:, :, 0].T
        terms = _with_loops(graph, _coerce.matmul(call.cast(edge_attr), folded))
    key = call.project(x_src, w_src)
    query = key if shared else call.project(x_dst, w_dst)
    return call.run(1, heads, query, key, key, graph, a_dst, a_src, terms, None, bias)


@_documented("")
def gatv2(
    x,
    edge_index,
    w_l,
    w_r,
    a,
    *,
    bias=None,
    edge_attr=None,
    w_edge=None,
    negative_slope=0.2,
    concat=True,
    add_self_loops=False,
    dropout=0.0,
    training=False,
    rng=None,
    return_attention_weights=False,
):
    """Graph attention whose ranking of the in-neighbours depends on the node: GATv2.

    Parameters
    ----------
    x : array_like, shape (N, in), or a pair of them
        Features of the nodes; of a bipartite graph, of sources and of targets.
    edge_index : array_like of int, shape (2, E), or CSRGraph
        Sources and targets. An edge that comes twice counts twice.
    w_l, w_r : array_like, shape (heads, in, out)
        Projections of targets and of sources; sources are summed as `w_r` projects them.
    a : array_like, shape (heads, out)
        What weighs the activated sum of both in the logits.
    {options}

    See Also
    --------
    GATLayer : holds the weights.
    CSRGraph : sorts the edges once, for many calls.

    Notes
    -----
    ``out_i = sum_j alpha_ij (x_j @ w_r[head])`` over the edges j -> i, where ``alpha_ij`` is the softmax over them of
    ``a . LeakyReLU(x_i @ w_l[head] + x_j @ w_r[head] + edge_attr_ij @ w_edge[head])`` [1]_. (PyTorch Geometric calls the
    projection of the sources `lin_l`.) A node without edges gives 0.

    O(E heads out) after the projections, which are NumPy's matmul, and with edge features ``E heads edge_dim out`` products.
    Memory, error and threads as in `gat`.

    References
    ----------
    .. [1] Brody, Alon, Yahav, How Attentive are Graph Attention Networks?, arXiv:2105.14491

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x, w = np.eye(3), np.ones((1, 3, 1)) * [[1], [2], [4]]
    >>> ruvector.gatv2(x, [[0, 1, 2], [2, 2, 0]], w, w, [[0.0]])
    array([[4. ],
           [0. ],
           [1.5]])
    """
    x_src, x_dst = _pair(x, "x", 2)
    w_l, w_r, a = _coerce.array(w_l, "w_l"), _coerce.array(w_r, "w_r"), _coerce.array(a, "a")
    bias, edge_attr, w_edge = _optional(bias, "bias"), _optional(edge_attr, "edge_attr"), _optional(w_edge, "w_edge")
    arrays = (x_src, x_dst, w_l, w_r, a, bias, edge_attr, w_edge)
    call = _Call(arrays, negative_slope, concat, add_self_loops, dropout, training, rng, return_attention_weights)
    _check_weights(w_r, x_src, "w_r", "x" if x_src is x_dst else "x[0]")
    _check_weights(w_l, x_dst, "w_l", "x" if x_src is x_dst else "x[1]")
    heads, _, width = w_r.shape
    _shaped(w_l, (heads, w_l.shape[1], width), "w_l")
    _shaped(a, (heads, width), "a")
    _shaped(bias, (width if call.mean else heads * width,), "bias")
    edges = _together(edge_attr=edge_attr, w_edge=w_edge)
    graph = graph_of(edge_index, len(x_src), len(x_dst), call.loops, edges or call.want)
    rows = None
    if edges:
        rows = _with_loops(graph, call.cast(_edge_rows(graph, edge_attr, w_edge, heads, width)))
        w_edge = w_edge.transpose(1, 0, 2)
    key = call.project(x_src, w_r)
    query = key if x_dst is x_src and w_l is w_r else call.project(x_dst, w_l)
    return call.run(2, heads, query, key, key, graph, None, a, rows, w_edge, bias)


class GATLayer:
    """A graph attention layer: `gat` or `gatv2` with the weights it holds.

    Parameters
    ----------
    in_features : int
    out_features : int
        Of each head.
    num_heads : int, default 8
    version : {1, 2}, default 1
        1: GAT (Velickovic et al. 2018); 2: GATv2 (Brody et al. 2022).
    edge_features : int, default 0
        Width of edge features; 0 for none.
    concat : bool, default True
    negative_slope : float, default 0.2
    add_self_loops : bool, default False
    bias : bool, default True
    dropout : float, default 0.0
        As in `gat`.
    weights : mapping of str to array_like, optional
        Weights by the names they have in `gat` (w, a_src, a_dst, w_edge, a_edge, bias) or `gatv2` (w_l, w_r, a, w_edge, bias),
        all of them. When None they are drawn: uniform in ``+-sqrt(6 / fan)`` with fan ``in_features + num_heads * out_features``
        for projections and ``num_heads + out_features`` for vectors (Glorot and Bengio 2010), the bias 0.
    rng : numpy.random.Generator or seed, optional
        Source of drawn weights; the same fixed numbers every time when None.
    dtype : dtype, default float32
        Of drawn weights.

    Attributes
    ----------
    weights : dict of str to ndarray
        Read-only.

    Notes
    -----
    Calls cost what `gat` and `gatv2` cost.

    Weights drawn without an `rng` are the same everywhere: number i of a weight is the upper 53 bits of SplitMix64's output for
    the state ``seed + (i + 1) * 0x9E3779B97F4A7C15``, brought to [-1, 1) and scaled; the seed counts the weights from 0 in the
    order w, a_src, a_dst, w_edge, a_edge or w_l, w_r, a, w_edge. The attention types gat and gatv2 draw theirs in this way.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> layer = ruvector.GATLayer(5, 4, num_heads=2)
    >>> layer
    GATLayer(5, 4, num_heads=2)
    >>> layer(np.ones((3, 5), np.float32), [[0, 1], [1, 2]]).shape
    (3, 8)
    """

    __slots__ = (
        "in_features",
        "out_features",
        "num_heads",
        "version",
        "edge_features",
        "concat",
        "negative_slope",
        "add_self_loops",
        "bias",
        "dropout",
        "weights",
    )

    def __init__(
        self,
        in_features,
        out_features,
        num_heads=8,
        *,
        version=1,
        edge_features=0,
        concat=True,
        negative_slope=0.2,
        add_self_loops=False,
        bias=True,
        dropout=0.0,
        weights=None,
        rng=None,
        dtype=np.float32,
    ):
        counts = {
            "in_features": in_features,
            "out_features": out_features,
            "num_heads": num_heads,
            "edge_features": edge_features,
        }
        for name, value in counts.items():
            counts[name] = number(value, name, whole=True)
            if counts[name] < (name != "edge_features"):
                raise ValueError(f"{name} must be at least {int(name != 'edge_features')}, got {value}")
        if counts["num_heads"] > _MOST_HEADS:
            raise ValueError(f"num_heads must be at most {_MOST_HEADS}, got {num_heads}")
        if version not in (1, 2) or isinstance(version, bool):
            raise ValueError(f"version must be 1 (GAT) or 2 (GATv2), got {version!r}")
        fields = {
            **counts,
            "version": version,
            "concat": flag(concat, "concat"),
            "negative_slope": number(negative_slope, "negative_slope"),
            "add_self_loops": flag(add_self_loops, "add_self_loops"),
            "bias": flag(bias, "bias"),
            "dropout": probability(dropout, "dropout"),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        shapes = self._shapes()
        if weights is None:
            dtype = np.dtype(dtype)
            if not _coerce.is_floating(dtype):
                raise TypeError(f"dtype must be float16, bfloat16, float32 or float64, got {dtype}")
            weights = self._draw(shapes, rng, dtype)
        else:
            try:
                weights = dict(weights)
            except (TypeError, ValueError):
                raise TypeError(f"weights must be a mapping of names to arrays, got {type(weights).__name__}") from None
            if weights.keys() != shapes.keys():
                raise ValueError(
                    f"weights must hold {', '.join(shapes)}, got {', '.join(map(str, weights)) or 'nothing'}"
                )
            weights = {name: np.array(_coerce.array(weights[name], f"weights[{name!r}]")) for name in shapes}
            for name, shape in shapes.items():
                _shaped(weights[name], shape, f"weights[{name!r}]")
        for array in weights.values():
            array.flags.writeable = False
        object.__setattr__(self, "weights", weights)

    def _shapes(self):
        heads, width = self.num_heads, self.out_features
        vector, matrix = (heads, width), (heads, self.in_features, width)
        shapes = (
            {"w": matrix, "a_src": vector, "a_dst": vector}
            if self.version == 1
            else {"w_l": matrix, "w_r": matrix, "a": vector}
        )
        if self.edge_features:
            shapes["w_edge"] = (heads, self.edge_features, width)
            if self.version == 1:
                shapes["a_edge"] = vector
        if self.bias:
            shapes["bias"] = (heads * width if self.concat else width,)
        return shapes

    def _draw(self, shapes, rng, dtype):
        rng = None if rng is None else _coerce.generator(rng)
        weights = {}
        for seed, (name, shape) in enumerate(shapes.items()):
            if name == "bias":
                weights[name] = np.zeros(shape, dtype)
            else:
                fan = shape[1] + shape[0] * shape[2] if len(shape) == 3 else sum(shape)
                weights[name] = glorot(shape, fan, seed_of(rng, seed)).astype(dtype)
        return weights

    def __setattr__(self, name, value):
        raise AttributeError("a GATLayer cannot be changed; make another from its to_dict()")

    @property
    def attention_weights(self):
        """The vectors of the logits, side by side: ``[a_src, a_dst]`` of shape (num_heads, 2 * out_features); `a` in version 2."""
        w = self.weights
        return np.concatenate([w["a_src"], w["a_dst"]], 1) if self.version == 1 else w["a"]

    def __call__(self, x, edge_index, edge_attr=None, *, training=False, rng=None, return_attention_weights=False):
        """The layer's output for features x, shape (N, in_features) or a pair, along the edges; parameters as in `gat`."""
        if (edge_attr is None) != (self.edge_features == 0):
            raise ValueError(
                f"edge_attr must be given exactly when the layer has edge_features, which are {self.edge_features}"
            )
        return (gat if self.version == 1 else gatv2)(
            x,
            edge_index,
            **self.weights,
            edge_attr=edge_attr,
            negative_slope=self.negative_slope,
            concat=self.concat,
            add_self_loops=self.add_self_loops,
            dropout=self.dropout,
            training=training,
            rng=rng,
            return_attention_weights=return_attention_weights,
        )

    def to_dict(self):
        """Parameters and weights as a dict that `from_dict` takes."""
        return {name: dict(self.weights) if name == "weights" else getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, state):
        """A layer from `to_dict`."""
        return cls(**state)

    def __reduce__(self):
        return GATLayer.from_dict, (self.to_dict(),)

    def __repr__(self):
        defaults = GATLayer.__init__.__kwdefaults__
        options = [
            f"{name}={getattr(self, name)!r}" for name in self.__slots__[3:-1] if getattr(self, name) != defaults[name]
        ]
        return (
            f"GATLayer({self.in_features}, {self.out_features}, {', '.join([f'num_heads={self.num_heads}', *options])})"
        )


def gat_search(nodes, edges, query_node_id, num_heads=4, k=10):
    """The in-neighbours of a node that it attends to most.

    Parameters
    ----------
    nodes : array_like, shape (N, d)
        Features; a node's number is its row.
    edges : array_like of int, shape (2, E), or CSRGraph
        Sources and targets.
    query_node_id : int
    num_heads : int, default 4
        Divides d.
    k : int, default 10
        How many at most.

    Returns
    -------
    ids : ndarray of int64, shape (min(k, in-neighbours),)
        By falling score, equal ones by number.
    scores : ndarray of the same shape
        Their attention weights; those of all in-neighbours sum to 1.

    Raises
    ------
    TypeError, ValueError
        For arrays, shapes and options that do not fit.
    IndexError
        For a node or an edge out of range.

    Notes
    -----
    The score is the mean over heads of ``softmax(q_h . k_h / sqrt(d / num_heads))`` over the in-neighbours: graph attention
    without weights. An edge that comes twice counts twice, for one node. O(E + d in-neighbours).

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> ids, scores = ruvector.gat_search(np.eye(4), [[1, 2, 3, 0], [0, 0, 0, 1]], 0, num_heads=2, k=2)
    >>> ids, scores.round(4)
    (array([1, 2]), array([0.3333, 0.3333]))
    """
    nodes = _coerce.array(nodes, "nodes")
    if nodes.ndim != 2:
        raise ValueError(f"nodes must have shape (N, d), got {nodes.shape}")
    node, k = number(query_node_id, "query_node_id", whole=True), number(k, "k", whole=True)
    if not 0 <= node < len(nodes):
        raise IndexError(f"query_node_id {node} is out of range for {len(nodes)} nodes")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    graph = graph_of(edges, len(nodes), len(nodes), False, False)
    # by number: edges in any order, and rows of a table in SQL, give the same bits
    sources = np.sort(graph.indices[graph.indptr[node] : graph.indptr[node + 1]])
    weights = attention_scores(nodes[node], nodes[sources], "multi_head", num_heads=num_heads)
    ids, where = np.unique(sources, return_inverse=True)
    scores = np.bincount(where, weights.astype(np.float64), len(ids)).astype(weights.dtype)
    best = np.argsort(-scores, kind="stable")[:k]
    return ids[best].astype(np.int64), scores[best]
