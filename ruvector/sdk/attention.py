"""Attention with its options and weights, resolved once: what a builder builds."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from ruvector import _coerce
from ruvector._options import flag
from ruvector._registry import head_counts
from ruvector.cache import KVCache
from ruvector.mechanisms.positions import rope
from ruvector.sdk import config as plain

_PARTS = MappingProxyType({"q": "Query", "k": "Key", "v": "Value", "o": "Result"})
# Types whose causal attention is that of a cache: the softmax of products with every key, or with the latest of them.
_CACHED = ("causal", "flash_v2", "grouped_query", "multi_head", "multi_query", "rope", "scaled_dot", "sliding_window")
_ALWAYS_CAUSAL = ("causal", "sliding_window")


def _both(a, b):
    """Two masks as one: what both show, with the sum of what they add."""
    try:
        if a.dtype == b.dtype == bool:
            return a & b
        if b.dtype == bool:
            a, b = b, a
        if a.dtype == bool:
            return np.where(a, b, np.array(-np.inf, b.dtype))
        with np.errstate(all="ignore"):
            # hidden is hidden, whatever the other adds
            return np.where(np.isneginf(a) | np.isneginf(b), -np.inf, a + b)
    except ValueError:
        raise ValueError(
            f"mask shapes {a.shape} and {b.shape} do not broadcast: one is bound, one of the call"
        ) from None


def _projected(x, weight, bias):
    """``x @ weight + bias``"""
    if weight is not None:
        # one product for all leading axes
        rows = _coerce.matmul(x.reshape(-1, x.shape[-1]), weight.astype(x.dtype, copy=False))
        x = rows.reshape(*x.shape[:-1], weight.shape[1])
    if bias is not None:
        with np.errstate(all="ignore"):
            x = np.add(x, bias.astype(x.dtype, copy=False), out=None if weight is None else x)
    return x


def _split(x, heads, name):
    """(..., n, heads * d) as (..., heads, n, d), a view."""
    if x.shape[-1] % heads:
        raise ValueError(f"{name} dimension {x.shape[-1]} must be divisible by num_heads {heads}")
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).swapaxes(-3, -2)


def _merge(x):
    """(..., heads, n, d) as (..., n, heads * d)."""
    x = x.swapaxes(-3, -2)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def _headed_mask(mask, axes, heads, kv_heads):
    """A mask (..., L, S), or (..., heads, L, S) where it has one axis more than the inputs, over the axes of split heads."""
    if mask.ndim > 2 and mask.ndim <= axes:
        mask = np.expand_dims(mask, -3)
    if kv_heads != heads and mask.ndim > 2:
        own = (kv_heads, heads // kv_heads) if mask.shape[-3] == heads else (mask.shape[-3], 1)
        mask = mask.reshape(*mask.shape[:-3], *own, *mask.shape[-2:])
    return mask


class Attention:
    """Attention that a builder has checked: a value that is called with arrays.

    Made by `AttentionBuilder.build`. Comparable, hashable and picklable by its configuration, weights included; it cannot be
    changed.

    Attributes
    ----------
    dim : int
        Width of the queries.
    name : str
        Canonical name of the attention type.
    params : mapping
        The type's own parameters, resolved, and the common options it was given.
    num_heads, num_kv_heads, head_dim, v_dim : int
        v_dim is the width of a projected head of values; `head_dim` where no weights project them.
    weights : mapping
        The arrays w_q, w_k, w_v, w_o, b_q, b_k, b_v, b_o that there are.
    mask : ndarray or None
        What `with_mask` bound.
    builder : AttentionBuilder
        What builds this again, without options that the type did not use.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvector import sdk
    >>> attention = sdk.multi_head(8, 2).causal().build()
    >>> attention
    <Attention multi_head(dim=8, num_heads=2, causal=True)>
    >>> x = np.random.default_rng(0).standard_normal((5, 8))
    >>> attention(x, x, x).shape
    (5, 8)
    """

    __slots__ = ("dim", "builder", "mask", "weights", "_call", "_heads", "_rotation", "_direct")

    def __init__(self, builder, call, heads, rotation, weights, mask=None):
        put = object.__setattr__
        put(self, "dim", builder.dim)
        put(self, "builder", builder)
        put(self, "mask", mask)
        put(self, "weights", MappingProxyType(weights))
        put(self, "_call", call)
        put(self, "_heads", heads)
        put(self, "_rotation", rotation)
        put(self, "_direct", not weights and heads is None and rotation is None and mask is None)

    def __setattr__(self, name, value):
        raise AttributeError("an Attention cannot be changed; attention.builder makes another")

    @property
    def name(self):
        return self._call.name

    @property
    def params(self):
        return self._call.params

    @property
    def num_heads(self):
        return self._heads[0] if self._heads else head_counts(self.name, self.params)[0]

    @property
    def num_kv_heads(self):
        if self._heads:
            return self._heads[1]
        return head_counts(self.name, self.params)[1] or self.num_heads

    @property
    def head_dim(self):
        inner = self.weights["w_q"].shape[1] if "w_q" in self.weights else self.dim
        return inner // self.num_heads

    @property
    def v_dim(self):
        w_v = self.weights.get("w_v")
        return self.head_dim if w_v is None else w_v.shape[1] // self.num_kv_heads

    def _config(self):
        mask = self.mask
        return self.builder, None if mask is None else (mask.dtype.str, mask.shape, mask.tobytes())

    def __eq__(self, other):
        return self._config() == other._config() if isinstance(other, Attention) else NotImplemented

    def __hash__(self):
        return hash(self._config())

    def __reduce__(self):
        return _rebuilt, (self.builder, self.mask)

    def __repr__(self):
        mask = "" if self.mask is None else f", mask of shape {self.mask.shape}"
        return f"<Attention {self.builder._text()}{mask}>"

    def __call__(self, query, key, value, *, mask=None, cache=None, training=False, rng=None, out=None):
        """Attends.

        Parameters
        ----------
        query : array_like, shape (..., L, dim) or (dim,)
        key : array_like, shape (..., S, d)
        value : array_like, shape (..., S, dv)
            Leading axes broadcast. d is `dim`, or what `w_k` takes; types whose heads share keys have num_kv_heads slices.
        mask : array_like, optional
            Broadcasts to ``(..., L, S)``, with one axis more than the inputs to ``(..., num_heads, L, S)``. Boolean: True =
            attend. Floating: added to the logits.
        cache : KVCache, optional
            From `cache`: the tokens before these. The projected keys and values, rotated by their positions, are appended, and
            the queries attend to all that it holds. Causal attention without a mask.
        training : bool, default False
            Dropout and jitter work only when True; random features are drawn anew then where there is an `rng`.
        rng : numpy.random.Generator or seed, optional
            Needed by dropout and jitter in training.
        out : ndarray, optional
            Where the result goes.

        Returns
        -------
        ndarray, shape (..., L, dv), or (dv,) for a single query
            `w_o` gives the last axis where there is one.

        Raises
        ------
        TypeError, ValueError
            As in `ruvector.attention`; ValueError for a query that is not `dim` wide, and for a cache of other sizes.
        """
        if type(query) is not np.ndarray:
            query = _coerce.array(query, "query")
        if query.ndim < 1 or query.shape[-1] != self.dim:
            raise ValueError(f"query must be dim = {self.dim} wide, got shape {query.shape}")
        if training is not False:
            training = flag(training, "training")
        if cache is not None:
            self._check_cache(cache, mask, training)
        elif self._direct:
            return self._call(query, key, value, mask=mask, training=training, rng=rng, out=out)
        return self._attend(query, key, value, mask, cache, training, rng, out)

    def compute(self, query, keys, values, *, mask=None, cache=None, training=False, rng=None, out=None):
        """Attends, as a call does: one query (dim,), its keys and values as arrays or as lists of vectors; batches too.

        Parameters
        ----------
        query : array_like, shape (dim,) or (..., L, dim)
        keys : array_like, shape (S, d) or (..., S, d)
        values : array_like, shape (S, dv) or (..., S, dv)
        mask, cache, training, rng, out
            As in a call.

        Returns
        -------
        ndarray, shape (dv,) or (..., L, dv)

        Examples
        --------
        >>> import numpy as np
        >>> from ruvector import sdk
        >>> query = np.full(768, 0.5)
        >>> sdk.multi_head(768, 12).build().compute(query, [query] * 10, [query] * 10).shape
        (768,)
        """
        query, keys, values = _coerce.plural(query, keys, values)
        return self(query, keys, values, mask=mask, cache=cache, training=training, rng=rng, out=out)

    def with_mask(self, mask):
        """This attention with a mask bound to it, which each call's own mask comes on top of.

        Parameters
        ----------
        mask : array_like or None
            As in a call; a copy is kept. None takes a bound mask away.

        Returns
        -------
        Attention

        Examples
        --------
        >>> import numpy as np
        >>> from ruvector import sdk
        >>> first = sdk.scaled_dot(2).build().with_mask([True, False])
        >>> first([1.0, 0.0], np.eye(2), [[10.0], [20.0]])
        array([10.])
        """
        if mask is not None:
            mask = plain.frozen(np.array(_coerce.mask(mask, True, False)))
        weights = dict(self.weights)
        return Attention(self.builder, self._call, self._heads, self._rotation, weights, mask)

    def cache(self, *, batch=1, capacity=0, dtype="float32"):
        """An empty cache for this attention's keys and values.

        Parameters
        ----------
        batch, capacity, dtype
            As in `KVCache`.

        Returns
        -------
        KVCache
            With `num_kv_heads` heads `head_dim` and `v_dim` wide; with the window of `sliding_window`.

        Raises
        ------
        ValueError
            For an attention that is not causal, or whose type does not decode through caches: the message names those that do.

        Examples
        --------
        >>> import numpy as np
        >>> from ruvector import sdk
        >>> attention = sdk.multi_head(8, 2).causal().init(0).build()
        >>> x = np.random.default_rng(0).standard_normal((5, 8), dtype=np.float32)
        >>> cache = attention.cache()
        >>> steps = [attention(x[i : i + 1], x[i : i + 1], x[i : i + 1], cache=cache) for i in range(5)]
        >>> np.allclose(np.concatenate(steps), attention(x, x, x), atol=1e-6)
        True
        """
        sizes, window = self._cache_sizes()
        return KVCache(*sizes, batch=batch, capacity=capacity, window=window, dtype=dtype)

    def _cache_sizes(self):
        """(num_kv_heads, head_dim, v_dim) and window of a cache; refuses what has none."""
        if self.name not in _CACHED:
            raise ValueError(f"attention type {self.name!r} does not decode through a cache; {', '.join(_CACHED)} do")
        if not (self.params.get("causal") or self.name in _ALWAYS_CAUSAL):
            raise ValueError("cache is for causal attention; the builder's causal() makes it so")
        scaling = (self._rotations() or {}).get("scaling")
        if scaling is not None and scaling.rope_type == "dynamic":
            raise ValueError("cache keeps rotated keys, which rope_type 'dynamic' turns anew with every length")
        return (self.num_kv_heads, self.head_dim, self.v_dim), self.params.get("window_size")

    def _check_cache(self, cache, mask, training):
        if not isinstance(cache, KVCache):
            raise TypeError(f"cache must be a KVCache, got {type(cache).__name__}")
        sizes, window = self._cache_sizes()
        found = cache.num_kv_heads, cache.head_dim, cache.v_dim
        if found != sizes or cache.window != window:
            raise ValueError(
                f"cache must have num_kv_heads, head_dim, v_dim {sizes} and window {window}, got {found} and {cache.window}"
            )
        if mask is not None or self.mask is not None:
            raise ValueError("mask does not go with a cache, whose queries see every token up to their own")
        if training and self.params.get("dropout"):
            raise ValueError("training with dropout does not go with a cache")

    def _rotations(self):
        """The options of `rope` that queries and keys are rotated with, or None."""
        if self.name == "rope":
            return {k: self.params[k] for k in ("base", "interleaved", "rotary_dim", "scaling")}
        return self._rotation

    def _attend(self, query, key, value, mask, cache, training, rng, out):
        query, key, value = (_coerce.array(x, n) for x, n in ((query, "query"), (key, "key"), (value, "value")))
        if key.ndim < 2 or value.ndim < 2:
            _coerce.refuse_axes(query, key, value)
        mask = self._whole_mask(mask, query.ndim == 1)
        if cache is None and not self.weights and not self._heads:
            if mask is not None and query.ndim == 1:
                mask = mask[..., 0, :]
            return self._rotated(query, key, value, mask, training, rng, out)
        w = self.weights
        dtype = _coerce._promote((query, key, value, *w.values()))
        single, axes = query.ndim == 1, max(query.ndim, key.ndim, value.ndim)
        if single:
            query = query[None]
        # projections of 16-bit types in float32, which the core then reads
        work = _coerce.computed_in(dtype) if w else dtype
        with np.errstate(over="ignore"):
            query, key, value = (x.astype(work, copy=False) for x in (query, key, value))
        query, key, value = (self._project(x, part) for x, part in ((query, "q"), (key, "k"), (value, "v")))
        if cache is None:
            result = self._by_heads(query, key, value, mask, axes, training, rng)
        else:
            result = self._through(cache, query, key, value)
        result = self._project(result, "o")
        with np.errstate(over="ignore"):
            result = result.astype(dtype, copy=False)
        if single:
            result = result[..., 0, :]
        if out is None:
            return result
        _coerce._check_output(out, result.shape, result.dtype)
        out[...] = result
        return out

    def _project(self, x, part):
        """x between the weight and the bias of a part (q, k, v, o), as far as there are any."""
        weight, bias = self.weights.get(f"w_{part}"), self.weights.get(f"b_{part}")
        if weight is not None and x.shape[-1] != len(weight):
            raise ValueError(f"{_PARTS[part]} dimension {x.shape[-1]} must be {len(weight)}, the rows of w_{part}")
        if weight is None and bias is not None and x.shape[-1] != len(bias):
            raise ValueError(f"{_PARTS[part]} dimension {x.shape[-1]} must be {len(bias)}, the elements of b_{part}")
        return _projected(x, weight, bias)

    def _whole_mask(self, mask, single):
        """The bound mask and that of the call, a row axis put in for a single query."""
        if mask is not None:
            mask = _coerce.mask(mask, True, False)
            mask = mask if self.mask is None else _both(self.mask, mask)
        else:
            mask = self.mask
        if mask is not None and single:
            mask = np.expand_dims(mask, -2) if mask.ndim else mask.reshape(1, 1)
        return mask

    def _by_heads(self, query, key, value, mask, axes, training, rng):
        """The type on slices of the width, where it does not cut them itself; `axes` of the inputs as they came."""
        if self._heads is None:
            return self._rotated(query, key, value, mask, training, rng, None)
        heads, kv_heads = self._heads
        query = _split(query, heads, "Query")
        key, value = _split(key, kv_heads, "Key"), _split(value, kv_heads, "Value")
        if query.shape[-1] != key.shape[-1]:
            _coerce.refuse_key_width(key.shape[-1] * kv_heads, kv_heads, query.shape[-1])
        if mask is not None:
            mask = _headed_mask(mask, axes, heads, kv_heads)
        if kv_heads == heads:
            result = self._rotated(query, key, value, mask, training, rng, None)
        else:
            query = query.reshape(*query.shape[:-3], kv_heads, heads // kv_heads, *query.shape[-2:])
            result = self._rotated(query, key[..., None, :, :], value[..., None, :, :], mask, training, rng, None)
            result = result.reshape(*result.shape[:-4], heads, *result.shape[-2:])
        return _merge(result)

    def _through(self, cache, query, key, value):
        """Attention to the tokens of a cache, these among them."""
        if not query.shape[:-1] == key.shape[:-1] == value.shape[:-1]:
            raise ValueError(
                f"with a cache, query, key and value are of the same tokens, got shapes {query.shape}, {key.shape}, {value.shape}"
            )
        unbatched = query.ndim == 2
        if unbatched:  # four axes are never ambiguous to a cache
            query, key, value = query[None], key[None], value[None]
        query = _split(query, self.num_heads, "Query")
        key, value = (_split(x, self.num_kv_heads, name) for x, name in ((key, "Key"), (value, "Value")))
        rotation = self._rotations()
        if rotation is not None:
            places = np.arange(cache.length, cache.length + query.shape[-2])
            query, key = (rope(x, places, **rotation) for x in (query, key))
        cache.append(key, value)
        scale, softcap = self.params.get("scale"), self.params.get("softcap", 0.0)
        result = _merge(cache.attend(query, scale=scale, softcap=softcap))
        return result[0] if unbatched else result

    def _rotated(self, query, key, value, mask, training, rng, out):
        if self._rotation is not None:
            length, keys = query.shape[-2] if query.ndim > 1 else 1, key.shape[-2]
            places = np.arange(keys - length, keys)
            query = rope(query, places if query.ndim > 1 else places[0], **self._rotation)
            key = rope(key, np.arange(keys), **self._rotation)
        return self._call(query, key, value, mask=mask, training=training, rng=rng, out=out)

    def to_dict(self):
        """This attention as a dictionary of plain Python values, which `from_dict` reads; arrays as nested lists.

        Returns
        -------
        dict

        Raises
        ------
        TypeError
            For a parameter that has no such form: a graph, or a Pattern. Pickle keeps those.

        Examples
        --------
        >>> from ruvector import sdk
        >>> sdk.flash(16, 128).causal().build().to_dict()["options"]
        {'causal': True}
        """
        found = self.builder.to_dict()
        if self.mask is not None:
            found["mask"] = plain.encoded(self.mask, "mask")
        return found

    @classmethod
    def from_dict(cls, config):
        """The attention that `to_dict` wrote.

        Parameters
        ----------
        config : mapping

        Returns
        -------
        Attention

        Raises
        ------
        TypeError, ValueError
            For what `to_dict` does not write; as in `AttentionBuilder.build`.
        """
        from ruvector.sdk.builder import AttentionBuilder

        plain.fields(config, ("dim", "type"), ("params", "options", "weights", "mask"))
        rest = {name: value for name, value in config.items() if name != "mask"}
        attention = AttentionBuilder.from_dict(rest).build(strict=True)
        return attention if config.get("mask") is None else attention.with_mask(plain.decoded(config["mask"], "mask"))

    def to_json(self):
        """`to_dict` as JSON text; floats keep every bit.

        Returns
        -------
        str
        """
        return plain.text_of(self.to_dict())

    @classmethod
    def from_json(cls, text):
        """The attention that `to_json` wrote.

        Parameters
        ----------
        text : str

        Returns
        -------
        Attention
        """
        return cls.from_dict(plain.config_of(text))


def _rebuilt(builder, mask):
    attention = builder.build(strict=True)
    return attention if mask is None else attention.with_mask(mask)
