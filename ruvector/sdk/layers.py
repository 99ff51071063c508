"""Layers of transformers with their weights: norms, attention between projections, and the blocks made of them.

Weights multiply from the right, ``x @ w`` with w (in, out). Layers are called with ``x (..., L, width)`` and hold no state.
"""

from __future__ import annotations

import numpy as np

import ruvector
from ruvector import _coerce, _options
from ruvector.sdk.attention import _projected


def _matrix(value, name, rows=None, columns=None):
    """A weight: floating, two axes, of the widths that are known."""
    value = _coerce.array(value, name)
    if value.ndim != 2 or rows not in (None, value.shape[0]) or columns not in (None, value.shape[1]):
        shape = ", ".join("n" if size is None else str(size) for size in (rows, columns))
        raise ValueError(f"{name} must have shape ({shape}), got {value.shape}")
    return value


def _vector(value, name, width):
    if value is None:
        return None
    value = _coerce.array(value, name)
    if value.shape != (width,):
        raise ValueError(f"{name} must have shape ({width},), got {value.shape}")
    return value


def _input(x, name, width, axes=1):
    x = _coerce.array(x, name)
    if x.ndim < axes or x.shape[-1] != width:
        raise ValueError(f"{name} must have shape ({'..., L, ' if axes > 1 else '..., '}{width}), got {x.shape}")
    return x


class LayerNorm:
    """`ruvector.layer_norm` with its weights.

    Parameters
    ----------
    weight, bias : array_like, shape (width,)
    eps : float, default 1e-5

    Examples
    --------
    >>> import numpy as np
    >>> from ruvector.sdk import LayerNorm
    >>> LayerNorm(np.ones(4), np.zeros(4))([1.0, 2.0, 3.0, 4.0]).round(4)
    array([-1.3416, -0.4472,  0.4472,  1.3416])
    """

    def __init__(self, weight, bias=None, *, eps=1e-5):
        self.weight = _coerce.array(weight, "weight")
        if self.weight.ndim != 1:
            raise ValueError(f"weight must have one axis, got shape {self.weight.shape}")
        self.bias = _vector(bias, "bias", len(self.weight))
        self.eps = _options.number(eps, "eps")
        if self.eps < 0:
            raise ValueError(f"eps must be at least 0, got {eps}")

    def __call__(self, x, out=None):
        return ruvector.layer_norm(x, self.weight, self.bias, eps=self.eps, out=out)

    def __repr__(self):
        return f"LayerNorm({len(self.weight)}, eps={self.eps:g})"


class RMSNorm:
    """`ruvector.rms_norm` with its weight.

    Parameters
    ----------
    weight : array_like, shape (width,)
    eps : float, default 1e-6

    Examples
    --------
    >>> import numpy as np
    >>> from ruvector.sdk import RMSNorm
    >>> RMSNorm(np.ones(4))([1.0, 2.0, 3.0, 4.0]).round(4)
    array([0.3651, 0.7303, 1.0954, 1.4606])
    """

    def __init__(self, weight, *, eps=1e-6):
        self.weight = _coerce.array(weight, "weight")
        if self.weight.ndim != 1:
            raise ValueError(f"weight must have one axis, got shape {self.weight.shape}")
        self.eps = _options.number(eps, "eps")
        if self.eps < 0:
            raise ValueError(f"eps must be at least 0, got {eps}")

    def __call__(self, x, out=None):
        return ruvector.rms_norm(x, self.weight, eps=self.eps, out=out)

    def __repr__(self):
        return f"RMSNorm({len(self.weight)}, eps={self.eps:g})"


class MultiHeadAttention:
    """Softmax attention between projections, ``concat_h(attention(x W_q, y W_k, y W_v)_h) W_o`` (arXiv:1706.03762).

    Parameters
    ----------
    w_q : array_like, shape (width, num_heads * head_dim)
    w_k : array_like, shape (memory_width, num_kv_heads * head_dim)
    w_v : array_like, shape (memory_width, num_kv_heads * v_dim)
    w_o : array_like, shape (num_heads * v_dim, out_width)
    b_q, b_k, b_v, b_o : array_like, optional
        Biases, as long as the columns of their matrices.
    num_heads : int
    num_kv_heads : int, optional
        Heads of keys and values, which divide `num_heads`; `num_heads` when None.
    causal : bool, default False
        Query i of L sees the keys up to i + (S - L).

    Raises
    ------
    TypeError
        For a dtype that is not real.
    ValueError
        For shapes that do not fit each other or the heads.

    Notes
    -----
    Weights of one input are kept side by side: self-attention projects with one product.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvector.sdk import MultiHeadAttention
    >>> eye = np.eye(4)
    >>> MultiHeadAttention(eye, eye, eye, eye, num_heads=2)(np.ones((3, 4)))[0]
    array([1., 1., 1., 1.])
    """

    def __init__(
        self, w_q, w_k, w_v, w_o, *, num_heads, num_kv_heads=None, b_q=None, b_k=None, b_v=None, b_o=None, causal=False
    ):
        self.num_heads = _options.number(num_heads, "num_heads", whole=True)
        self.num_kv_heads = (
            self.num_heads if num_kv_heads is None else _options.number(num_kv_heads, "num_kv_heads", whole=True)
        )
        for name, count in (("num_heads", self.num_heads), ("num_kv_heads", self.num_kv_heads)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be divisible by num_kv_heads {self.num_kv_heads}")
        self.causal = _options.flag(causal, "causal")
        w_q, w_k = _matrix(w_q, "w_q"), _matrix(w_k, "w_k")
        w_v = _matrix(w_v, "w_v", w_k.shape[0])
        for name, weight, heads in (
            ("w_q", w_q, self.num_heads),
            ("w_k", w_k, self.num_kv_heads),
            ("w_v", w_v, self.num_kv_heads),
        ):
            if weight.shape[1] % heads:
                raise ValueError(f"{name} has {weight.shape[1]} columns, which {heads} heads do not divide")
        self.head_dim, self.v_dim = w_q.shape[1] // self.num_heads, w_v.shape[1] // self.num_kv_heads
        if w_k.shape[1] != self.num_kv_heads * self.head_dim:
            raise ValueError(f"w_k must have {self.num_kv_heads * self.head_dim} columns, got {w_k.shape[1]}")
        self.w_o = _matrix(w_o, "w_o", self.num_heads * self.v_dim)
        self.b_o = _vector(b_o, "b_o", self.w_o.shape[1])
        biases = [
            _vector(b, name, w.shape[1]) for b, name, w in ((b_q, "b_q", w_q), (b_k, "b_k", w_k), (b_v, "b_v", w_v))
        ]
        if all(b is None for b in biases):
            self._bias = None
        else:
            zeros = [np.zeros(w.shape[1], w.dtype) for w in (w_q, w_k, w_v)]
            self._bias = np.concatenate([z if b is None else b for b, z in zip(biases, zeros)])
        self.width, self.memory_width = w_q.shape[0], w_k.shape[0]
        self._cuts = np.cumsum([0, w_q.shape[1], w_k.shape[1], w_v.shape[1]]).tolist()
        self._weights = (w_q, w_k, w_v)
        if self.width == self.memory_width:
            # columns of one matrix, views of which project a memory
            self._joined = np.concatenate([w.T for w in self._weights]).T
            self._weights = tuple(self._joined[:, a:b] for a, b in zip(self._cuts, self._cuts[1:]))

    @property
    def w_q(self):
        return self._weights[0]

    @property
    def w_k(self):
        return self._weights[1]

    @property
    def w_v(self):
        return self._weights[2]

    def __call__(self, x, memory=None, *, mask=None, cache=None):
        """Attention of x to `memory`, or to itself.

        Parameters
        ----------
        x : array_like, shape (..., L, width)
        memory : array_like, shape (..., S, memory_width), optional
            Where keys and values come from; `x` when None.
        mask : array_like, optional
            Boolean (True = attend) or floating (added), broadcast to (..., num_heads, L, S).
        cache : KVCache, optional
            The tokens before x, one sequence after the other: x's keys and values are appended. Causal self-attention only.

        Returns
        -------
        ndarray, shape (..., L, out_width)
        """
        x = _input(x, "x", self.width, 2)
        if memory is None:
            if self.width != self.memory_width:
                raise ValueError(f"memory is needed: keys are projected from width {self.memory_width}")
            joined = _projected(x, self._joined, self._bias)
            q, k, v = (joined[..., a:b] for a, b in zip(self._cuts, self._cuts[1:]))
        else:
            memory = _input(memory, "memory", self.memory_width, 2)
            biases = [None if self._bias is None else self._bias[a:b] for a, b in zip(self._cuts, self._cuts[1:])]
            q, k, v = (_projected(y, w, b) for y, w, b in zip((x, memory, memory), self._weights, biases))
        q = self._split(q, self.num_heads)
        k, v = self._split(k, self.num_kv_heads), self._split(v, self.num_kv_heads)
        if cache is None:
            context = np.empty((*q.shape[:-3], q.shape[-2], self.num_heads, self.v_dim), q.dtype)
            options = (
                {"window": (None, k.shape[-2] - q.shape[-2])} if self._shifted(q, k) else {"is_causal": self.causal}
            )
            shared = self.num_kv_heads != self.num_heads
            heads = np.swapaxes(context, -2, -3)
            ruvector.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=shared, out=heads, **options)
        else:
            if not self.causal or memory is not None or mask is not None:
                raise ValueError("cache is for causal self-attention without a mask")
            cache.append(k, v)
            context = np.swapaxes(cache.attend(q), -2, -3)
        return _projected(context.reshape(*context.shape[:-2], -1), self.w_o, self.b_o)

    def _shifted(self, q, k):
        if self.causal and k.shape[-2] < q.shape[-2]:
            raise ValueError(f"causal attention of {q.shape[-2]} queries needs as many keys, got {k.shape[-2]}")
        return self.causal and k.shape[-2] > q.shape[-2]

    @staticmethod
    def _split(x, heads):
        return np.swapaxes(x.reshape(*x.shape[:-1], heads, -1), -2, -3)

    def __repr__(self):
        sizes = f"width={self.width}, num_heads={self.num_heads}, head_dim={self.head_dim}"
        shared = "" if self.num_kv_heads == self.num_heads else f", num_kv_heads={self.num_kv_heads}"
        return f"MultiHeadAttention({sizes}{shared}{', causal=True' if self.causal else ''})"


class TransformerLayer:
    """One layer of an encoder or a decoder: attention, attention to a memory, and a network, each with its residual.

    Parameters
    ----------
    attention : callable
        ``attention(x, mask=mask)``, or ``attention(x, cache=cache)`` where the layer is called with a cache.
    feed_forward : callable
    attention_norm, feed_forward_norm : callable
    cross_attention, cross_norm : callable, optional
        ``cross_attention(x, memory, mask=memory_mask)``: a decoder's attention to the encoder.
    norm_first : bool, default False
        ``x + f(norm(x))``, as in GPT-2 and Llama; else ``norm(x + f(x))``, as in BERT and the original transformer.

    Raises
    ------
    TypeError
        For a part that cannot be called.
    ValueError
        If one of `cross_attention` and `cross_norm` is given without the other.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvector.sdk import FeedForward, LayerNorm, MultiHeadAttention, TransformerLayer
    >>> eye, norm = np.eye(4), LayerNorm(np.ones(4))
    >>> attention = MultiHeadAttention(eye, eye, eye, eye, num_heads=2)
    >>> TransformerLayer(attention, FeedForward(eye, eye), norm, norm)(np.eye(4)[:2]).shape
    (2, 4)
    """

    def __init__(
        self,
        attention,
        feed_forward,
        attention_norm,
        feed_forward_norm,
        *,
        cross_attention=None,
        cross_norm=None,
        norm_first=False,
    ):
        if (cross_attention is None) != (cross_norm is None):
            raise ValueError("cross_attention and cross_norm come together")
        parts = {
            "attention": attention,
            "feed_forward": feed_forward,
            "attention_norm": attention_norm,
            "feed_forward_norm": feed_forward_norm,
        }
        if cross_attention is not None:
            parts |= {"cross_attention": cross_attention, "cross_norm": cross_norm}
        for name, part in parts.items():
            if not callable(part):
                raise TypeError(f"{name} must be callable, got {part!r}")
        self.attention, self.feed_forward = attention, feed_forward
        self.attention_norm, self.feed_forward_norm = attention_norm, feed_forward_norm
        self.cross_attention, self.cross_norm = cross_attention, cross_norm
        self.norm_first = _options.flag(norm_first, "norm_first")

    def __call__(self, x, memory=None, *, mask=None, memory_mask=None, cache=None):
        if (memory is not None) != (self.cross_attention is not None):
            raise ValueError(f"memory is {'needed' if memory is None else 'not used'} by this layer")
        if memory is None and memory_mask is not None:
            raise ValueError("memory_mask needs memory")
        x = _coerce.array(x, "x")
        options = {"mask": mask} if cache is None else {"mask": mask, "cache": cache}
        x = self._add(x, lambda y: self.attention(y, **options), self.attention_norm)
        if memory is not None:
            x = self._add(x, lambda y: self.cross_attention(y, memory, mask=memory_mask), self.cross_norm)
        return self._add(x, self.feed_forward, self.feed_forward_norm)

    def _add(self, x, function, norm):
        return x + function(norm(x)) if self.norm_first else norm(x + function(x))

    def __repr__(self):
        cross = "" if self.cross_attention is None else f", cross_attention={self.cross_attention!r}"
        order = ", norm_first=True" if self.norm_first else ""
        return f"TransformerLayer({self.attention!r}, {self.feed_forward!r}{cross}{order})"
