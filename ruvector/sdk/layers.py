"""Layers of transformers with their weights: norms, and the blocks made of them and attention.

Layers are called with ``x (..., L, width)`` and hold no state.
"""

from __future__ import annotations


import ruvector
from ruvector import _coerce, _options


def _vector(value, name, width):
    if value is None:
        return None
    value = _coerce.array(value, name)
    if value.shape != (width,):
        raise ValueError(f"{name} must have shape ({width},), got {value.shape}")
    return value


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


class TransformerLayer:
    """One layer of an encoder or a decoder: attention, attention to a memory, and a network, each with its residual.

    Parameters
    ----------
    attention : callable
        An `Attention`, or what is called as one: ``attention(x, x, x, mask=mask)``, with ``cache=cache`` too where the layer is
        called with a cache.
    feed_forward : callable
    attention_norm, feed_forward_norm : callable
    cross_attention, cross_norm : callable, optional
        ``cross_attention(x, memory, memory, mask=memory_mask)``: a decoder's attention to the encoder.
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
    >>> from ruvector.sdk import FeedForward, LayerNorm, TransformerLayer, multi_head
    >>> eye, norm = np.eye(4), LayerNorm(np.ones(4))
    >>> attention = multi_head(4, 2).weights(w_q=eye, w_k=eye, w_v=eye, w_o=eye).build()
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
        x = self._add(x, lambda y: self.attention(y, y, y, **options), self.attention_norm)
        if memory is not None:
            x = self._add(x, lambda y: self.cross_attention(y, memory, memory, mask=memory_mask), self.cross_norm)
        return self._add(x, self.feed_forward, self.feed_forward_norm)

    def _add(self, x, function, norm):
        return x + function(norm(x)) if self.norm_first else norm(x + function(x))

    def __repr__(self):
        cross = "" if self.cross_attention is None else f", cross_attention={self.cross_attention!r}"
        order = ", norm_first=True" if self.norm_first else ""
        return f"TransformerLayer({self.attention!r}, {self.feed_forward!r}{cross}{order})"
