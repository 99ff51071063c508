from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, SupportsIndex, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ruvector.index import AttentionIndex as AttentionIndex
from ruvector.retrieval import mha_search as mha_search

__version__: str
__all__: list[str]

_Rng = np.random.Generator | int | None
_Array = NDArray[Any]
_Window = tuple[int | None, int | None] | None

class AttentionState(NamedTuple):
    output: _Array
    lse: NDArray[np.float64]

class KVCache:
    num_kv_heads: int
    head_dim: int
    v_dim: int
    batch: int
    length: int
    capacity: int
    dtype: np.dtype[Any]
    @property
    def window(self) -> int | None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def keys(self) -> _Array: ...
    @property
    def values(self) -> _Array: ...
    def __init__(
        self,
        num_kv_heads: int,
        head_dim: int,
        v_dim: int | None = None,
        *,
        batch: int = 1,
        capacity: int = 0,
        window: int | None = None,
        dtype: DTypeLike = ...,
    ) -> None: ...
    def __len__(self) -> int: ...
    def __copy__(self) -> KVCache: ...
    def __deepcopy__(self, memo: Any) -> KVCache: ...
    def append(self, keys: ArrayLike, values: ArrayLike) -> None: ...
    @overload
    def attend(
        self,
        query: ArrayLike,
        *,
        scale: float | None = None,
        softcap: float = 0.0,
        alibi_slopes: ArrayLike | None = None,
        return_lse: Literal[False] = False,
        out: _Array | None = None,
    ) -> _Array: ...
    @overload
    def attend(
        self,
        query: ArrayLike,
        *,
        scale: float | None = None,
        softcap: float = 0.0,
        alibi_slopes: ArrayLike | None = None,
        return_lse: Literal[True],
        out: _Array | None = None,
    ) -> tuple[_Array, NDArray[np.float64]]: ...
    def clear(self) -> None: ...
    def truncate(self, length: int) -> None: ...
    def copy(self) -> KVCache: ...

AttentionCache = KVCache

class Parameter:
    name: str
    type: str
    default: Any
    low: float | None
    high: float | None
    description: str
    def __init__(
        self, name: str, type: str, default: Any, low: float | None, high: float | None, description: str
    ) -> None: ...
    def check(self, value: Any) -> Any: ...
    def range_text(self) -> str: ...

class CSRGraph:
    num_sources: int
    num_targets: int
    indptr: NDArray[np.int32]
    indices: NDArray[np.int32]
    @classmethod
    def from_coo(cls, edge_index: ArrayLike, num_nodes: int | tuple[int, int] | None = None) -> CSRGraph: ...
    @classmethod
    def from_csr(
        cls, indptr: ArrayLike, indices: ArrayLike, num_nodes: int | tuple[int, int] | None = None
    ) -> CSRGraph: ...
    @property
    def num_edges(self) -> int: ...
    @property
    def num_nodes(self) -> int | tuple[int, int]: ...
    @property
    def edge_index(self) -> NDArray[np.int64]: ...
    def with_self_loops(self) -> CSRGraph: ...

_Edges = ArrayLike | CSRGraph
_Features = ArrayLike | tuple[ArrayLike, ArrayLike]

class GATLayer:
    in_features: int
    out_features: int
    num_heads: int
    version: int
    edge_features: int
    concat: bool
    negative_slope: float
    add_self_loops: bool
    bias: bool
    dropout: float
    weights: dict[str, _Array]
    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_heads: int = 8,
        *,
        version: Literal[1, 2] = 1,
        edge_features: int = 0,
        concat: bool = True,
        negative_slope: float = 0.2,
        add_self_loops: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        weights: Mapping[str, ArrayLike] | None = None,
        rng: _Rng = None,
        dtype: Any = ...,
    ) -> None: ...
    @property
    def attention_weights(self) -> _Array: ...
    def __call__(
        self,
        x: _Features,
        edge_index: _Edges,
        edge_attr: ArrayLike | None = None,
        *,
        training: bool = False,
        rng: _Rng = None,
        return_attention_weights: bool = False,
    ) -> Any: ...
    def to_dict(self) -> dict[str, Any]: ...
    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> GATLayer: ...

class AttentionRecord:
    name: str
    aliases: tuple[str, ...]
    complexity: str
    best_for: str
    family: str
    parameters: tuple[Parameter, ...]
    reference: str
    def __init__(
        self,
        name: str,
        aliases: tuple[str, ...],
        complexity: str,
        best_for: str,
        family: str,
        parameters: tuple[Parameter, ...],
        reference: str,
    ) -> None: ...

class UnknownAttentionType(ValueError, LookupError): ...

class _AttentionTypeMeta(type):
    # one constructor for each type: AttentionType.FlashV2(block_size=64)
    def __getattr__(cls, name: str) -> Callable[..., AttentionType]: ...

class SparsePattern:
    def __or__(self, other: SparsePattern) -> SparsePattern: ...
    def __and__(self, other: SparsePattern) -> SparsePattern: ...

class AttentionType(metaclass=_AttentionTypeMeta):
    name: str
    params: Mapping[str, Any]
    def __init__(self, name: str, **params: Any) -> None: ...

class _Attention(Protocol):
    name: str
    params: Mapping[str, Any]
    def __call__(
        self,
        query: ArrayLike,
        key: ArrayLike,
        value: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        training: bool = False,
        rng: _Rng = None,
        out: _Array | None = None,
    ) -> _Array: ...

def isa() -> str: ...
def isas() -> tuple[str, ...]: ...
def use_isa(name: str) -> AbstractContextManager[Any]: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def show_runtime() -> None: ...
def dot(a: ArrayLike, b: ArrayLike) -> Any: ...
def topk(x: ArrayLike, k: SupportsIndex, axis: SupportsIndex = -1) -> tuple[_Array, NDArray[np.int64]]: ...
def batched_dot_products(query: ArrayLike, keys: ArrayLike) -> _Array: ...
def softmax(x: ArrayLike, axis: int = -1, *, out: _Array | None = None) -> _Array: ...
def log_softmax(x: ArrayLike, axis: int = -1, *, out: _Array | None = None) -> _Array: ...
def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    out: _Array | None = None,
) -> _Array: ...
def rms_norm(
    x: ArrayLike, weight: ArrayLike | None = None, *, eps: float = 1e-6, out: _Array | None = None
) -> _Array: ...
def gelu(x: ArrayLike, *, approximate: Literal["none", "tanh"] = "none", out: _Array | None = None) -> _Array: ...
def silu(x: ArrayLike, *, out: _Array | None = None) -> _Array: ...
def swiglu(gate: ArrayLike, up: ArrayLike, *, out: _Array | None = None) -> _Array: ...
def entmax(x: ArrayLike, alpha: float = 1.5, axis: int = -1, *, out: _Array | None = None) -> _Array: ...
def sparsemax(x: ArrayLike, axis: int = -1, *, out: _Array | None = None) -> _Array: ...
@overload
def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    softcap: float = 0.0,
    window: _Window = None,
    alibi_slopes: ArrayLike | None = None,
    return_lse: Literal[False] = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
@overload
def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    softcap: float = 0.0,
    window: _Window = None,
    alibi_slopes: ArrayLike | None = None,
    return_lse: Literal[True],
    rng: _Rng = None,
    out: _Array | None = None,
) -> tuple[_Array, NDArray[np.float64]]: ...
def varlen_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike,
    *,
    causal: bool = False,
    scale: float | None = None,
    softcap: float = 0.0,
    window: _Window = None,
    alibi_slopes: ArrayLike | None = None,
    return_lse: bool = False,
    out: _Array | None = None,
) -> Any: ...
def partial_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    softcap: float = 0.0,
    window: _Window = None,
    alibi_slopes: ArrayLike | None = None,
    key_offset: int = 0,
) -> AttentionState: ...
def merge_states(states: Iterable[AttentionState | tuple[ArrayLike, ArrayLike]]) -> AttentionState: ...
def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attention_type: str | AttentionType = "scaled_dot",
    *,
    mask: ArrayLike | None = None,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
    **params: Any,
) -> _Array: ...
def get_attention(name: str | AttentionType, **params: Any) -> _Attention: ...
def attention_types() -> tuple[AttentionRecord, ...]: ...
def register(
    name: str,
    fn: Callable[..., Any],
    *,
    aliases: Sequence[str] = (),
    complexity: str = "",
    best_for: str = "",
    family: str = "custom",
    parameters: Sequence[Parameter] = (),
    reference: str = "",
) -> None: ...
def attention_score(
    query: ArrayLike, key: ArrayLike, attention_type: str | AttentionType = "scaled_dot", **params: Any
) -> Any: ...
def attention_scores(
    query: ArrayLike,
    keys: ArrayLike,
    attention_type: str | AttentionType = "scaled_dot",
    *,
    mask: ArrayLike | None = None,
    **params: Any,
) -> _Array: ...
def multi_head_attention(
    query: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    num_heads: int,
    *,
    w_q: ArrayLike | None = None,
    w_k: ArrayLike | None = None,
    w_v: ArrayLike | None = None,
    w_o: ArrayLike | None = None,
    b_q: ArrayLike | None = None,
    b_k: ArrayLike | None = None,
    b_v: ArrayLike | None = None,
    b_o: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def flash_attention(
    query: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    block_size: int = 64,
    *,
    block_size_q: int | None = None,
    block_size_kv: int | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    softcap: float = 0.0,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    return_lse: bool = False,
    out: _Array | None = None,
) -> Any: ...
def scaled_dot_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    softcap: float = 0.0,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def cross_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def self_attention(
    x: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def causal_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def multi_query_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_heads: int = 8,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def grouped_query_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_heads: int = 8,
    num_kv_heads: int = 2,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def alibi_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_heads: int = 8,
    *,
    slopes: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def sliding_window_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    window_size: int = 256,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def local_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    window_size: int = 256,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def hyperbolic_distance(a: ArrayLike, b: ArrayLike, curvature: float = 1.0) -> Any: ...
def hyperbolic_cdist(a: ArrayLike, b: ArrayLike, curvature: float = 1.0) -> _Array: ...
def lorentz_distance(a: ArrayLike, b: ArrayLike, curvature: float = 1.0, *, space_only: bool = False) -> Any: ...
def lorentz_cdist(a: ArrayLike, b: ArrayLike, curvature: float = 1.0, *, space_only: bool = False) -> _Array: ...
def mobius_add(x: ArrayLike, y: ArrayLike, curvature: float = 1.0) -> _Array: ...
def exp_map(base: ArrayLike, tangent: ArrayLike, curvature: float = 1.0) -> _Array: ...
def log_map(base: ArrayLike, target: ArrayLike, curvature: float = 1.0) -> _Array: ...
def project_to_ball(x: ArrayLike, curvature: float = 1.0, eps: float | None = None) -> _Array: ...
def poincare_to_lorentz(x: ArrayLike, curvature: float = 1.0, *, space_only: bool = False) -> _Array: ...
def lorentz_to_poincare(x: ArrayLike, curvature: float = 1.0, *, space_only: bool = False) -> _Array: ...
def minkowski_dot(a: ArrayLike, b: ArrayLike) -> Any: ...
def gyromidpoint(points: ArrayLike, weights: ArrayLike | None = None, curvature: float = 1.0) -> _Array: ...
def lorentz_centroid(
    points: ArrayLike, weights: ArrayLike | None = None, curvature: float = 1.0, *, space_only: bool = False
) -> _Array: ...

class LinearState:
    head_dim: int
    v_dim: int
    batch: tuple[int, ...]
    dtype: np.dtype[Any]
    length: int
    @property
    def nbytes(self) -> int: ...
    def __init__(
        self,
        head_dim: int,
        v_dim: int | None = None,
        attention_type: str | AttentionType = "linear",
        *,
        batch: int | tuple[int, ...] = (),
        dtype: DTypeLike = ...,
        rng: _Rng = None,
        **params: Any,
    ) -> None: ...
    def __len__(self) -> int: ...
    def __copy__(self) -> LinearState: ...
    def __deepcopy__(self, memo: Any) -> LinearState: ...
    def reset(self) -> LinearState: ...
    def append(self, key: ArrayLike, value: ArrayLike, *, mask: ArrayLike | None = None) -> LinearState: ...
    def attend(self, query: ArrayLike, *, out: _Array | None = None) -> _Array: ...
    def step(
        self,
        query: ArrayLike,
        key: ArrayLike,
        value: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        out: _Array | None = None,
    ) -> _Array: ...
    def copy(self) -> LinearState: ...

def clustered_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_clusters: int = 100,
    *,
    bits: int = 63,
    iterations: int = 10,
    top_k: int = 32,
    mask: ArrayLike | None = None,
    scale: float | None = None,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def hash_based_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_hashes: int | None = None,
    *,
    tau: int = 8,
    normalize: bool = True,
    mask: ArrayLike | None = None,
    causal: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def linformer_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    rank: int = 256,
    *,
    key_projection: ArrayLike | None = None,
    value_projection: ArrayLike | None = None,
    shared: bool = False,
    mask: ArrayLike | None = None,
    scale: float | None = None,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def nystrom_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_landmarks: int = 64,
    *,
    pinv: Literal["iterative", "exact"] = "iterative",
    iterations: int = 6,
    conv: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    scale: float | None = None,
    out: _Array | None = None,
) -> _Array: ...
def product_key_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_heads: int = 4,
    top_k: int = 32,
    *,
    mask: ArrayLike | None = None,
    scale: float | None = None,
    out: _Array | None = None,
) -> _Array: ...
def reformer_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_hashes: int = 4,
    bucket_size: int = 64,
    *,
    num_buckets: int | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def routing_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_clusters: int | None = None,
    *,
    cluster_size: int | None = None,
    centroids: ArrayLike | None = None,
    normalize: bool = True,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def sinkhorn_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    iterations: int = 5,
    *,
    mask: ArrayLike | None = None,
    scale: float | None = None,
    out: _Array | None = None,
) -> _Array: ...
def sparse_sinkhorn_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    block_size: int = 64,
    *,
    iterations: int = 8,
    temperature: float = 0.75,
    sort_logits: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    out: _Array | None = None,
) -> _Array: ...
def update_centroids(
    centroids: ArrayLike, query: ArrayLike, key: ArrayLike, decay: float = 0.999
) -> NDArray[np.float64]: ...
def draw_features(num_features: int, dim: int, *, orthogonal: bool = True, rng: _Rng = None) -> NDArray[np.float64]: ...
def linear_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    feature_map: Literal["elu", "relu"] = "elu",
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    out: _Array | None = None,
) -> _Array: ...
def performer_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_features: int = 256,
    *,
    orthogonal: bool = True,
    projection: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def random_feature_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_features: int = 64,
    *,
    orthogonal: bool = False,
    projection: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def poincare_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    curvature: float | ArrayLike = 1.0,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def lorentz_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    curvature: float | ArrayLike = 1.0,
    *,
    space_only: bool = False,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def mixed_curvature_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    curvature: float | ArrayLike = 1.0,
    *,
    euclidean_dim: int = -1,
    value_euclidean_dim: int = -1,
    euclidean_weight: float = 1.0,
    hyperbolic_weight: float = 1.0,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def gat(
    x: _Features,
    edge_index: _Edges,
    w: _Features,
    a_src: ArrayLike,
    a_dst: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    edge_attr: ArrayLike | None = None,
    w_edge: ArrayLike | None = None,
    a_edge: ArrayLike | None = None,
    negative_slope: float = 0.2,
    concat: bool = True,
    add_self_loops: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    return_attention_weights: bool = False,
) -> Any: ...
def gatv2(
    x: _Features,
    edge_index: _Edges,
    w_l: ArrayLike,
    w_r: ArrayLike,
    a: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    edge_attr: ArrayLike | None = None,
    w_edge: ArrayLike | None = None,
    negative_slope: float = 0.2,
    concat: bool = True,
    add_self_loops: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    return_attention_weights: bool = False,
) -> Any: ...
def gat_search(
    nodes: ArrayLike, edges: _Edges, query_node_id: int, num_heads: int = 4, k: int = 10
) -> tuple[NDArray[np.int64], _Array]: ...

_Order = Literal["softmax_topk", "topk_softmax"]
_Gate = ArrayLike | Callable[[_Array], ArrayLike] | None

class ExpertLoad(NamedTuple):
    capacity: int | None
    counts: NDArray[np.int64]
    kept: NDArray[np.bool_]
    dropped: NDArray[np.int64]

class Routing:
    indices: NDArray[np.int64]
    weights: _Array
    logits: _Array
    capacity: int | None
    def __init__(
        self, indices: NDArray[np.int64], weights: _Array, logits: _Array, capacity: int | None = None
    ) -> None: ...
    def __iter__(self) -> Iterator[_Array]: ...
    @property
    def probabilities(self) -> _Array: ...
    @property
    def load(self) -> ExpertLoad: ...
    @property
    def fractions(self) -> NDArray[np.float64]: ...
    @property
    def load_balancing_loss(self) -> float: ...
    @property
    def z_loss(self) -> float: ...

def expert_capacity(
    num_tokens: SupportsIndex, num_experts: SupportsIndex, top_k: SupportsIndex = 1, capacity_factor: float = 1.25
) -> int: ...
def gate_weights(dim: SupportsIndex, num_experts: SupportsIndex = 8, *, rng: _Rng = None) -> NDArray[np.float64]: ...
def top_k_gating(
    logits: ArrayLike, top_k: SupportsIndex = 2, *, order: _Order = "softmax_topk", normalize: bool = True
) -> tuple[NDArray[np.int64], _Array]: ...
def moe_route(
    embedding: ArrayLike,
    num_experts: SupportsIndex = 8,
    top_k: SupportsIndex = 2,
    *,
    gate: _Gate = None,
    order: _Order = "softmax_topk",
    normalize: bool = True,
    capacity_factor: float | None = None,
    jitter: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
) -> Routing: ...
def load_balancing_loss(probabilities: ArrayLike, indices: ArrayLike) -> float: ...
def router_z_loss(logits: ArrayLike) -> float: ...

class RopeScaling:
    rope_type: str
    factor: float | None
    original_max_position_embeddings: int | None
    low_freq_factor: float | None
    high_freq_factor: float | None
    beta_fast: float | None
    beta_slow: float | None
    attention_factor: float | None
    mscale: float | None
    mscale_all_dim: float | None
    truncate: bool | None
    def __init__(
        self,
        rope_type: Literal["default", "linear", "ntk", "dynamic", "yarn", "llama3"],
        factor: float | None = None,
        original_max_position_embeddings: int | None = None,
        low_freq_factor: float | None = None,
        high_freq_factor: float | None = None,
        beta_fast: float | None = None,
        beta_slow: float | None = None,
        attention_factor: float | None = None,
        mscale: float | None = None,
        mscale_all_dim: float | None = None,
        truncate: bool | None = None,
    ) -> None: ...
    @classmethod
    def of(cls, value: RopeScaling | Mapping[str, Any]) -> RopeScaling: ...

_Scaling = RopeScaling | Mapping[str, Any] | None

def rope(
    x: ArrayLike,
    positions: ArrayLike | None = None,
    *,
    base: float = 10000.0,
    interleaved: bool = False,
    rotary_dim: int | None = None,
    scaling: _Scaling = None,
) -> _Array: ...
def rope_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_heads: int = 8,
    num_kv_heads: int | None = None,
    *,
    base: float = 10000.0,
    interleaved: bool = False,
    rotary_dim: int | None = None,
    scaling: _Scaling = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def xpos_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_heads: int = 8,
    num_kv_heads: int | None = None,
    *,
    base: float = 10000.0,
    interleaved: bool = False,
    gamma: float = 0.4,
    scale_base: float = 512.0,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def relative_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_heads: int = 8,
    num_kv_heads: int | None = None,
    *,
    max_distance: int = 16,
    key_embedding: ArrayLike | None = None,
    value_embedding: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def t5_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_heads: int = 8,
    num_kv_heads: int | None = None,
    *,
    num_buckets: int = 32,
    max_distance: int = 128,
    bidirectional: bool | None = None,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def additive_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    hidden: int = 64,
    *,
    w_q: ArrayLike | None = None,
    w_k: ArrayLike | None = None,
    v: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def cosine_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    tau: float = 0.1,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def differential_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    lambda_init: float = 0.8,
    *,
    norm: bool = False,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def entmax_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    alpha: float = 1.5,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def sigmoid_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: float | None = None,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def sparsemax_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def talking_heads_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_heads: int = 8,
    *,
    w_logits: ArrayLike | None = None,
    w_weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def rezero_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    alpha: float = 0.0,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def fixup_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    multiplier: float = 1.0,
    *,
    bias_in: float = 0.0,
    bias_out: float = 0.0,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def realformer_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_heads: int = 8,
    *,
    previous: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def adaptive_span_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_heads: int = 8,
    *,
    span: ArrayLike | None = None,
    ramp: float = 32.0,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def synthesizer_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    kind: str = "dense",
    *,
    max_length: SupportsIndex = 1024,
    w1: ArrayLike | None = None,
    b1: ArrayLike | None = None,
    w2: ArrayLike | None = None,
    b2: ArrayLike | None = None,
    table: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def compressive_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    segment_length: SupportsIndex = 512,
    *,
    memory_length: SupportsIndex = 512,
    compressed_length: SupportsIndex = 512,
    rate: SupportsIndex = 3,
    compression: str = "mean",
    key_conv: ArrayLike | None = None,
    value_conv: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def feedback_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    layer_weights: ArrayLike | None = None,
    *,
    w_key: ArrayLike | None = None,
    w_value: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...

class CompressiveMemory:
    batch: tuple[int, ...]
    compressed_length: int
    compression: str
    dtype: np.dtype[Any]
    head_dim: int
    memory_length: int
    rate: int
    v_dim: int
    def __init__(
        self,
        head_dim: SupportsIndex,
        v_dim: SupportsIndex | None = None,
        *,
        memory_length: SupportsIndex = 512,
        compressed_length: SupportsIndex = 512,
        rate: SupportsIndex = 3,
        compression: str = "mean",
        key_conv: ArrayLike | None = None,
        value_conv: ArrayLike | None = None,
        batch: int | tuple[int, ...] = (),
        dtype: DTypeLike = ...,
    ) -> None: ...
    @property
    def keys(self) -> _Array: ...
    @property
    def values(self) -> _Array: ...
    @property
    def length(self) -> int: ...
    @property
    def compressed(self) -> int: ...
    def reset(self) -> CompressiveMemory: ...
    def append(self, key: ArrayLike, value: ArrayLike, *, mask: ArrayLike | None = None) -> CompressiveMemory: ...
    def attend(self, query: ArrayLike, *, scale: float | None = None) -> _Array: ...
    def step(
        self,
        query: ArrayLike,
        key: ArrayLike,
        value: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        scale: float | None = None,
    ) -> _Array: ...

class FeedbackMemory:
    batch: tuple[int, ...]
    dim: int
    dtype: np.dtype[Any]
    length: int
    num_layers: int
    def __init__(
        self,
        dim: SupportsIndex,
        num_layers: SupportsIndex,
        *,
        weights: ArrayLike | None = None,
        w_key: ArrayLike | None = None,
        w_value: ArrayLike | None = None,
        batch: int | tuple[int, ...] = (),
        dtype: DTypeLike = ...,
    ) -> None: ...
    @property
    def keys(self) -> _Array: ...
    @property
    def values(self) -> _Array: ...
    def reset(self) -> FeedbackMemory: ...
    def append(self, states: ArrayLike) -> FeedbackMemory: ...
    def attend(self, query: ArrayLike, *, scale: float | None = None) -> _Array: ...

def t_fixup_scale(num_layers: SupportsIndex, decoder: bool = False) -> float: ...
def fixup_scale(num_layers: SupportsIndex, layers_per_branch: SupportsIndex = 2) -> float: ...
def realformer_logits(
    query: ArrayLike,
    key: ArrayLike,
    num_heads: int = 8,
    *,
    previous: ArrayLike | None = None,
    scale: float | None = None,
) -> _Array: ...

class MixtureOfExperts:
    num_experts: int
    top_k: int
    gate: _Array | Callable[[_Array], ArrayLike] | None
    experts: _Array | tuple[Callable[[_Array], ArrayLike], ...] | None
    capacity_factor: float | None
    jitter: float
    order: _Order
    normalize: bool
    def __init__(
        self,
        num_experts: SupportsIndex = 8,
        top_k: SupportsIndex = 2,
        *,
        gate: _Gate = None,
        experts: Sequence[Callable[[_Array], ArrayLike]] | ArrayLike | None = None,
        capacity_factor: float | None = None,
        jitter: float = 0.0,
        order: _Order = "softmax_topk",
        normalize: bool = True,
        rng: _Rng = None,
    ) -> None: ...
    def top_k_gating(self, logits: ArrayLike) -> tuple[NDArray[np.int64], _Array]: ...
    def route(self, x: ArrayLike, *, training: bool = False, rng: _Rng = None) -> Routing: ...
    @overload
    def forward(
        self, x: ArrayLike, *, training: bool = False, rng: _Rng = None, return_routing: Literal[False] = False
    ) -> _Array: ...
    @overload
    def forward(
        self, x: ArrayLike, *, training: bool = False, rng: _Rng = None, return_routing: Literal[True]
    ) -> tuple[_Array, Routing]: ...
    @overload
    def __call__(
        self, x: ArrayLike, *, training: bool = False, rng: _Rng = None, return_routing: Literal[False] = False
    ) -> _Array: ...
    @overload
    def __call__(
        self, x: ArrayLike, *, training: bool = False, rng: _Rng = None, return_routing: Literal[True]
    ) -> tuple[_Array, Routing]: ...

def sparse_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    pattern: Literal["strided", "fixed"] | SparsePattern = "strided",
    *,
    stride: int | None = None,
    summary: int | None = None,
    bidirectional: bool = False,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def dilated_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    window_size: int = 64,
    dilation: int = 2,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def longformer_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    window_size: int = 512,
    global_tokens: int | ArrayLike = 1,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def bigbird_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    block_size: int = 64,
    window_blocks: int = 3,
    global_blocks: int = 2,
    random_blocks: int = 3,
    *,
    seed: int = 0,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def axial_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    height: int | None = None,
    width: int | None = None,
    *,
    mode: str = "sequential",
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def block_sparse_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    layout: ArrayLike | None = None,
    block_size: int = 128,
    *,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
def sliding_attention(
    embeddings: ArrayLike,
    window_size: int = 256,
    stride: int = 128,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[list[_Array], NDArray[np.int64], _Array]: ...
def moe_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    num_experts: int = 8,
    top_k: int = 2,
    *,
    gate: ArrayLike | None = None,
    w_q: ArrayLike | None = None,
    w_k: ArrayLike | None = None,
    w_v: ArrayLike | None = None,
    w_o: ArrayLike | None = None,
    capacity_factor: float | None = None,
    jitter_noise: float = 0.0,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    training: bool = False,
    rng: _Rng = None,
    out: _Array | None = None,
) -> _Array: ...
