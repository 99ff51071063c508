"""The builder: a type, its options and its weights, gathered in any order, checked once and built into an `Attention`."""

from __future__ import annotations

import difflib
import functools
import warnings
from types import MappingProxyType

import numpy as np

from ruvector import _coerce, _primitives
from ruvector._options import flag, number, probability
from ruvector._random import seed_of
from ruvector._registry import (
    AttentionType,
    UnknownAttentionType,
    attention_types,
    canonical,
    common_options,
    get_attention,
    head_counts,
    record_of,
)
from ruvector.mechanisms.positions import rope
from ruvector.sdk import config as plain
from ruvector.sdk.attention import Attention

# Of projections that nobody gave.
_INIT_SEED = 42

WEIGHTS = ("w_q", "w_k", "w_v", "w_o", "b_q", "b_k", "b_v", "b_o")
# Options that are a parameter of the types that have it.
_PARAMETER_OF = MappingProxyType({"expert_capacity": "capacity_factor", "jitter_noise": "jitter_noise"})
_HEADS = ("num_heads", "num_kv_heads", "head_dim")
# Methods that give an option.
_OPTIONS = (
    "dropout",
    "causal",
    "scale",
    "num_heads",
    "head_dim",
    "expert_capacity",
    "jitter_noise",
    "rotate",
    "weights",
    "init",
)


class UnusedOptionWarning(UserWarning):
    """Options that the type which is built does not use; the message names them."""


def _count(value, name):
    value = number(value, name, whole=True)
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def _positive(value, name):
    value = number(value, name)
    if value <= 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return value


_CHECKS = MappingProxyType(
    {
        "dropout": probability,
        "causal": flag,
        "scale": number,
        "num_heads": _count,
        "num_kv_heads": _count,
        "head_dim": _count,
        "expert_capacity": _positive,
        "jitter_noise": probability,
    }
)


class AttentionBuilder:
    """Gathers what an attention is made of; `build` checks it and makes the object that is called.

    A method for each option returns another builder and leaves this one as it is, so that builders can be shared and varied.
    There is a method for each type of `ruvector.attention_types`, those that `ruvector.register` adds included, by name or
    alias: ``AttentionBuilder(512).multi_head(8)``, ``.bigbird(block_size=64)``; it takes the type's parameters, by position
    in their order or by name. `type` does the same with the name as an argument, and reaches the types whose names are taken
    by options, such as "causal".

    Parameters
    ----------
    dim : int
        Width of the queries, at least 1. The type is scaled_dot until one is chosen.

    Attributes
    ----------
    dim : int
    name : str
        Canonical name of the type.
    params, options, arrays : mapping
        Parameters of the type, options and weights as they were given.

    Notes
    -----
    Of one option given twice, the last counts; None takes it back. Another type takes the parameters of the former one away,
    not the options. Building takes some microseconds, types that draw or rotate up to 100.

    Examples
    --------
    >>> from ruvector import sdk
    >>> builder = sdk.AttentionBuilder(512).multi_head(8).dropout(0.1)
    >>> builder.causal(True).build()
    <Attention multi_head(dim=512, num_heads=8, causal=True, dropout=0.1)>
    >>> builder.build()
    <Attention multi_head(dim=512, num_heads=8, dropout=0.1)>
    """

    __slots__ = ("dim", "name", "params", "options", "arrays")

    def __init__(self, dim):
        self._put(dim, "scaled_dot", {}, {}, {})

    def _put(self, dim, name, params, options, arrays):
        put = object.__setattr__
        put(self, "dim", dim)
        put(self, "name", name)
        for field, values in (("params", params), ("options", options), ("arrays", arrays)):
            put(self, field, MappingProxyType({k: v for k, v in values.items() if v is not None}))
        return self

    def __setattr__(self, name, value):
        raise AttributeError("an AttentionBuilder cannot be changed; its methods return others")

    def _with(self, **options):
        return _made(self.dim, self.name, self.params, {**self.options, **options}, self.arrays)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            record = record_of(canonical(name))
        except UnknownAttentionType as error:
            if hasattr(Attention, name):
                raise AttributeError(
                    f"AttentionBuilder has no {name!r}: the Attention that build() makes has"
                ) from None
            close = difflib.get_close_matches(name, _OPTIONS, n=1)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            raise AttributeError(
                f"AttentionBuilder has no option and no type {name!r}. {hint}Options: {', '.join(_OPTIONS)}. {error}"
            ) from None
        return functools.partial(self._positional, record)

    def __dir__(self):
        names = [n for record in attention_types() for n in (record.name, *record.aliases)]
        return sorted({*super().__dir__(), *names})

    def _positional(self, record, *args, **params):
        names = [parameter.name for parameter in record.parameters]
        if len(args) > len(names):
            raise TypeError(f"attention type {record.name!r} has {len(names)} parameters, got {len(args)} by position")
        twice = [name for name in names[: len(args)] if name in params]
        if twice:
            raise TypeError(f"attention type {record.name!r} got {twice[0]} by position and by name")
        return self.type(record.name, **dict(zip(names, args)), **params)

    def type(self, name, **params):
        """Chooses the attention type.

        Parameters
        ----------
        name : str or AttentionType
            A name or alias in any case, or a record with its parameters.
        **params
            Parameters of the type; `causal`, `scale` and `dropout` too. Checked by `build`.

        Returns
        -------
        AttentionBuilder

        Raises
        ------
        UnknownAttentionType
            If no type has that name.

        Examples
        --------
        >>> from ruvector import sdk
        >>> sdk.AttentionBuilder(64).type("sliding", window_size=16).build()
        <Attention sliding_window(dim=64, window_size=16)>
        """
        if isinstance(name, AttentionType):
            name, params = name.name, {**name.params, **params}
        name = canonical(name)
        options = dict(self.options)
        for option in ("causal", "scale", "dropout", "num_heads", "num_kv_heads"):
            if option in params:
                options[option] = params.pop(option)
        for option, parameter in _PARAMETER_OF.items():
            if parameter in params:
                options.pop(option, None)
        return _made(self.dim, name, {k: plain.frozen_value(v) for k, v in params.items()}, options, self.arrays)

    def dropout(self, p):
        """Share of weights dropped in training, at least 0 and less than 1; the rest is scaled by ``1 / (1 - p)``."""
        return self._with(dropout=p)

    def causal(self, causal=True):
        """Whether query i of L sees no key after i + (S - L)."""
        return self._with(causal=causal)

    def scale(self, scale):
        """Factor on the products of queries and keys; the type's own, mostly ``1 / sqrt(head_dim)``, when None."""
        return self._with(scale=scale)

    def num_heads(self, num_heads, num_kv_heads=None):
        """Slices of the width that attend on their own; with fewer for keys and values, groups of heads share them.

        Types that have heads cut them; for the others the slices become leading axes. `moe` has none but its experts.
        """
        return self._with(num_heads=num_heads, num_kv_heads=num_kv_heads)

    def head_dim(self, head_dim):
        """Width of a head: there are ``dim / head_dim`` heads, or together with `num_heads` they are ``num_heads * head_dim``
        wide, to which `weights` or `init` project."""
        return self._with(head_dim=head_dim)

    def expert_capacity(self, factor):
        """Positive: an expert takes ``ceil(top_k * queries / num_experts * factor)`` queries (`moe`)."""
        return self._with(expert_capacity=factor)

    def jitter_noise(self, noise):
        """At least 0 and less than 1: relative noise on the router's input in training (`moe`)."""
        return self._with(jitter_noise=noise)

    def rotate(self, base=10000.0, *, interleaved=False, rotary_dim=None, scaling=None):
        """Turns queries and keys of each head by their positions, as `ruvector.rope` does, before a type that has no heads
        of its own sees them: rotary positions with any pattern. The type `rope` is this with every key."""
        options = {"base": base, "interleaved": interleaved, "rotary_dim": rotary_dim, "scaling": scaling}
        return self._with(rotate={k: plain.frozen_value(v) for k, v in options.items()})

    def weights(self, *, w_q=None, w_k=None, w_v=None, w_o=None, b_q=None, b_k=None, b_v=None, b_o=None):
        """Projections around the attention: ``query @ w_q + b_q`` and so on attend, the heads side by side ``@ w_o + b_o``.

        Parameters
        ----------
        w_q : array_like, shape (dim, num_heads * d), optional
        w_k : array_like, shape (in, num_kv_heads * d), optional
        w_v : array_like, shape (in, num_kv_heads * dv), optional
        w_o : array_like, shape (num_heads * dv, out), optional
            Identity where not given. A type's own parameters of these names, as `moe` has them, go with the type.
        b_q, b_k, b_v, b_o : array_like, shape of the last axis, optional

        Returns
        -------
        AttentionBuilder
            It keeps read-only copies; arrays that are read-only already are kept as they are. What is not given stays.

        Raises
        ------
        TypeError
            For a dtype that is not real.

        Examples
        --------
        >>> import numpy as np
        >>> from ruvector import sdk
        >>> attention = sdk.multi_head(8, 2).weights(w_q=np.eye(8), w_o=np.ones((8, 3))).build()
        >>> attention(np.eye(8), np.eye(8), np.eye(8)).shape
        (8, 3)
        """
        given = dict(zip(WEIGHTS, (w_q, w_k, w_v, w_o, b_q, b_k, b_v, b_o)))
        arrays = {k: plain.frozen(_coerce.array(v, k)) for k, v in given.items() if v is not None}
        return _made(self.dim, self.name, self.params, self.options, {**self.arrays, **arrays})

    def init(self, rng=None, *, dtype="float32"):
        """Draws the projections w_q, w_k, w_v and w_o that `weights` does not give.

        Parameters
        ----------
        rng : numpy.random.Generator or seed, optional
            None: one fixed seed, the same numbers on every machine.
        dtype : dtype, default "float32"
            float16, bfloat16, float32 or float64.

        Returns
        -------
        AttentionBuilder

        Raises
        ------
        TypeError
            For another dtype, or an `rng` that is none.

        Notes
        -----
        Uniform in ``+-sqrt(6 / (in + out))``, from Glorot and Bengio 2010, Understanding the difficulty of training deep
        feedforward neural networks. The seed is taken from `rng` at once, so that a builder always builds the same.

        Examples
        --------
        >>> from ruvector import sdk
        >>> sdk.multi_head(512, 8).init(0).build()
        <Attention multi_head(dim=512, num_heads=8, weights=(w_q, w_k, w_v, w_o))>
        """
        if not _coerce.is_floating(np.dtype(dtype)):
            raise TypeError(f"dtype must be float16, bfloat16, float32 or float64, got {dtype!r}")
        return self._with(init=(seed_of(rng, _INIT_SEED), np.dtype(dtype)))

    # Building --------------------------------------------------------------------------------------------------------

    def build(self, strict=False):
        """Checks everything and resolves it, once.

        Parameters
        ----------
        strict : bool, default False
            Whether options that the type does not use are an error rather than a warning.

        Returns
        -------
        Attention

        Raises
        ------
        TypeError
            For a parameter that the type does not have, a value of the wrong type; with `strict` for options that the type
            does not use.
        ValueError
            For a value out of its range, heads that do not divide the width, weights whose shapes do not fit.

        Warns
        -----
        UnusedOptionWarning
            Once, for all options that the type does not use.

        Examples
        --------
        >>> from ruvector import sdk
        >>> sdk.multi_head(768, 5).build()
        Traceback (most recent call last):
        ValueError: Query dimension 768 must be divisible by num_heads 5
        """
        strict = flag(strict, "strict")
        dim, record = _count(self.dim, "dim"), record_of(self.name)
        options = {k: _CHECKS[k](v, k) for k, v in self.options.items() if k in _CHECKS}
        if "rotate" in self.options:
            options["rotate"] = dict(self.options["rotate"])
        own = {parameter.name for parameter in record.parameters}
        inner, heads = self._heads_of(dim, record, options)
        known = set(common_options(record.name))
        params = dict(self.params)
        if "num_heads" in own and heads:
            params["num_heads"] = heads[0]
        if "num_kv_heads" in own and "num_kv_heads" in options:
            params["num_kv_heads"] = options["num_kv_heads"]
        for option, parameter in _PARAMETER_OF.items():
            if option in options and parameter in own:
                params[parameter] = options[option]
                known.add(option)
        splits = heads is not None and "num_heads" not in own
        if record.family != "experts":
            known.update(_HEADS if splits or "num_kv_heads" in own else ("num_heads", "head_dim"))
            if "num_heads" not in own:
                known.add("rotate")
        used = {k: v for k, v in options.items() if k in known}
        call = get_attention(record.name, **params, **{k: used[k] for k in common_options(record.name) if k in used})
        num_heads = heads[0] if splits else 1
        if splits:
            _coerce.check_heads(*heads, inner, heads[1])
        call._fits(inner // num_heads)
        rotation = options.get("rotate")
        if rotation is not None:
            rope(np.zeros(inner // num_heads), 0, **rotation)
            rotation = used.get("rotate")
        arrays = self._weights_of(dim, inner, call, heads if splits else None)
        self._report([k for k in options if k not in known], record.name, strict)
        normal = self._normal(dim, call, heads if splits else None, rotation, arrays)
        return Attention(normal, call, heads if splits and heads[0] > 1 else None, rotation, arrays)

    def _heads_of(self, dim, record, options):
        """The width that attends, and the heads of queries and keys in it; None where nobody asked for heads."""
        if record.family == "experts" or not ("num_heads" in options or "head_dim" in options):
            return self._inner(dim), None
        heads, width = options.get("num_heads"), options.get("head_dim")
        inner = self._inner(dim)
        if heads is None:
            if inner % width:
                raise ValueError(f"Query dimension {inner} must be divisible by head_dim {width}")
            heads = inner // width
        elif width is not None and heads * width != inner:
            if "w_q" in self.arrays or "init" not in self.options:
                raise ValueError(
                    f"num_heads {heads} * head_dim {width} must be {inner}, the width of the queries; weights or init project "
                    "to another"
                )
            inner = heads * width
        return inner, (heads, options.get("num_kv_heads", heads))

    def _inner(self, dim):
        """The width of projected queries."""
        w_q = self.arrays.get("w_q")
        if w_q is None:
            return dim
        if w_q.ndim != 2 or w_q.shape[0] != dim:
            raise ValueError(f"w_q must have shape ({dim}, out), got {w_q.shape}")
        return w_q.shape[1]

    def _weights_of(self, dim, inner, call, heads):
        """Weights, drawn where `init` asks for them, of shapes that fit."""
        if not self.arrays and "init" not in self.options:
            return {}
        num_heads, num_kv_heads = heads or _own_heads(call)
        narrow = inner // num_heads * num_kv_heads
        arrays = dict(self.arrays)
        if "init" in self.options:
            w_v = arrays.get("w_v")
            v_width = narrow if w_v is None or w_v.ndim != 2 else w_v.shape[1]
            o_width = v_width // num_kv_heads * num_heads
            shapes = {"w_q": (dim, inner), "w_k": (dim, narrow), "w_v": (dim, narrow), "w_o": (o_width, dim)}
            arrays = {**_drawn(*self.options["init"], {k: s for k, s in shapes.items() if k not in arrays}), **arrays}
        arrays = {name: arrays[name] for name in WEIGHTS if name in arrays}
        widths = {"q": inner, "k": None, "v": None, "o": None}
        for part in "qkvo":
            weight, bias = arrays.get(f"w_{part}"), arrays.get(f"b_{part}")
            if weight is not None:
                if weight.ndim != 2 or 0 in weight.shape:
                    raise ValueError(f"w_{part} must have shape (in, out), got {weight.shape}")
                widths[part] = weight.shape[1]
            if bias is not None and (bias.ndim != 1 or widths[part] not in (None, len(bias))):
                raise ValueError(f"b_{part} must have shape ({widths[part] or 'out'},), got {bias.shape}")
            if bias is not None and widths[part] is None:
                widths[part] = len(bias)
        if widths["k"] not in (None, narrow):
            raise ValueError(
                f"w_k must have shape (in, {narrow}), as wide as the heads of projected queries, got {_shape(arrays, 'k')}"
            )
        if widths["v"] is not None:
            if widths["v"] % num_kv_heads:
                raise ValueError(
                    f"w_v must have shape (in, out) with out divisible by {num_kv_heads} heads, got {_shape(arrays, 'v')}"
                )
            rows = widths["v"] // num_kv_heads * num_heads
            if "w_o" in arrays and len(arrays["w_o"]) != rows:
                raise ValueError(f"w_o must have shape ({rows}, out), got {arrays['w_o'].shape}")
        return arrays

    @staticmethod
    def _report(unused, name, strict):
        if not unused:
            return
        text = f"attention type {name!r} does not use {', '.join(unused)}"
        if strict:
            raise TypeError(text)
        warnings.warn(text, UnusedOptionWarning, stacklevel=3)

    @staticmethod
    def _normal(dim, call, heads, rotation, arrays):
        """The builder of the same attention with nothing in it that has no effect."""
        common = common_options(call.name)
        params = {k: v for k, v in call.params.items() if v is not None and k not in ("causal", "scale", "dropout")}
        options = {k: call.params[k] for k in common if call.params.get(k)}
        if call.params.get("scale") is not None:
            options["scale"] = call.params["scale"]
        for option in ("num_heads", "num_kv_heads"):
            if option in params:
                options[option] = params.pop(option)
        if heads is not None and heads[0] > 1:
            options["num_heads"] = heads[0]
            if heads[1] != heads[0]:
                options["num_kv_heads"] = heads[1]
        if rotation is not None:
            options["rotate"] = rotation
        return _made(dim, call.name, params, options, arrays)

    # The builder as a value ------------------------------------------------------------------------------------------

    def _key(self):
        return self.dim, self.name, plain.key_of(self.params), plain.key_of(self.options), plain.key_of(self.arrays)

    def __eq__(self, other):
        return self._key() == other._key() if isinstance(other, AttentionBuilder) else NotImplemented

    def __hash__(self):
        return hash(self._key())

    def __reduce__(self):
        return _made, (self.dim, self.name, dict(self.params), dict(self.options), dict(self.arrays))

    def _text(self):
        options = {k: v for k, v in self.options.items() if k not in ("init", "rotate")}
        first = {k: options.pop(k) for k in ("num_heads", "num_kv_heads") if k in options}
        parts = [f"{k}={v!r}" for k, v in {"dim": self.dim, **first, **self.params, **options}.items()]
        if "rotate" in self.options:
            given = ", ".join(f"{k}={v!r}" for k, v in self.options["rotate"].items() if v not in (None, False))
            parts.append(f"rotate=({given})")
        if self.arrays:
            parts.append(f"weights=({', '.join(self.arrays)}{',' * (len(self.arrays) == 1)})")
        if "init" in self.options:
            parts.append(f"init={self.options['init'][0]}")
        return f"{self.name}({', '.join(parts)})"

    def __repr__(self):
        return f"<AttentionBuilder {self._text()}>"

    def to_dict(self):
        """This builder as a dictionary of plain Python values, which `from_dict` reads; arrays as nested lists.

        Returns
        -------
        dict

        Raises
        ------
        TypeError
            For a parameter that has no such form: a graph, or a Pattern. Pickle keeps those.
        """
        options = dict(self.options)
        if "init" in options:
            options["init"] = {"seed": options["init"][0], "dtype": options["init"][1].name}
        if "rotate" in options:
            options["rotate"] = {k: plain.encoded(v, k) for k, v in options["rotate"].items() if v is not None}
        found = {"dim": self.dim, "type": self.name}
        for name, values in (("params", self.params), ("options", options), ("weights", self.arrays)):
            if values:
                found[name] = {k: v if k in ("init", "rotate") else plain.encoded(v, k) for k, v in values.items()}
        return found

    @classmethod
    def from_dict(cls, config):
        """The builder that `to_dict` wrote.

        Parameters
        ----------
        config : mapping

        Returns
        -------
        AttentionBuilder

        Raises
        ------
        TypeError, ValueError
            For what `to_dict` does not write.
        """
        plain.fields(config, ("dim", "type"), ("params", "options", "weights"))
        builder = cls(config["dim"]).type(config["type"])
        parts = {n: config.get(n) or {} for n in ("params", "options", "weights")}
        plain.fields(parts["options"], (), (*_CHECKS, "rotate", "init"), "options")
        plain.fields(parts["weights"], (), WEIGHTS, "weights")
        weights = {k: plain.decoded(v, k) for k, v in parts["weights"].items()}
        options = {k: v for k, v in parts["options"].items() if k not in ("init", "rotate")}
        builder = builder.type(config["type"], **{k: plain.decoded(v, k) for k, v in parts["params"].items()})
        builder = builder._with(**options).weights(**weights)
        if parts["options"].get("rotate") is not None:
            builder = builder.rotate(**{k: plain.decoded(v, k) for k, v in parts["options"]["rotate"].items()})
        if parts["options"].get("init") is not None:
            init = parts["options"]["init"]
            plain.fields(init, ("seed", "dtype"), (), "init")
            builder = builder._with(init=(number(init["seed"], "seed", whole=True), np.dtype(init["dtype"])))
        return builder

    def to_json(self):
        """`to_dict` as JSON text; floats keep every bit.

        Returns
        -------
        str
        """
        return plain.text_of(self.to_dict())

    @classmethod
    def from_json(cls, text):
        """The builder that `to_json` wrote.

        Parameters
        ----------
        text : str

        Returns
        -------
        AttentionBuilder
        """
        return cls.from_dict(plain.config_of(text))


def _made(dim, name, params, options, arrays):
    return AttentionBuilder.__new__(AttentionBuilder)._put(dim, name, params, options, arrays)


def _own_heads(call):
    num_heads, num_kv_heads = head_counts(call.name, call.params)
    return num_heads, num_kv_heads or num_heads


def _shape(arrays, part):
    name = f"w_{part}" if f"w_{part}" in arrays else f"b_{part}"
    return arrays[name].shape


def _drawn(seed, dtype, shapes):
    """Glorot's uniform numbers for each shape, one stream for all."""
    drawn, first = {}, 0
    counts = {name: rows * columns for name, (rows, columns) in shapes.items()}
    stream = _primitives.draw(seed, 1.0, sum(counts.values()))
    for name, shape in shapes.items():
        part = stream[first : first + counts[name]] * np.sqrt(6 / sum(shape))
        drawn[name] = plain.frozen(part.reshape(shape).astype(dtype))
        first += counts[name]
    return drawn


# The types of the guide ----------------------------------------------------------------------------------------------


def scaled_dot(dim):
    """Attention of one head over every key: ``softmax(q . k / sqrt(dim)) v``.

    Parameters
    ----------
    dim : int

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> from ruvector import sdk
    >>> sdk.scaled_dot(512).build()
    <Attention scaled_dot(dim=512, softcap=0.0)>
    """
    return AttentionBuilder(dim).type("scaled_dot")


def multi_head(dim, num_heads):
    """Attention of several heads, slices of the width, over every key.

    Parameters
    ----------
    dim : int
    num_heads : int
        Divides dim.

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> from ruvector import sdk
    >>> sdk.multi_head(768, 12).dropout(0.1).build()
    <Attention multi_head(dim=768, num_heads=12, dropout=0.1)>
    """
    return AttentionBuilder(dim).type("multi_head", num_heads=num_heads)


def flash(dim, block_size):
    """Attention over every key in blocks: type flash_v2.

    Parameters
    ----------
    dim : int
    block_size : int
        Keys of a block and queries of a tile, at least 1.

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> from ruvector import sdk
    >>> sdk.flash(1024, 128).causal(True).build().params["block_size"]
    128
    """
    return AttentionBuilder(dim).type("flash_v2", block_size=block_size)


def linear(dim, num_features):
    """Attention in time linear in the keys, by random features that stand for the softmax: type performer.

    Parameters
    ----------
    dim : int
    num_features : int
        From 1 to 65536; the error falls as ``1 / sqrt(num_features)``.

    Returns
    -------
    AttentionBuilder
        The type linear, with fixed features, is ``AttentionBuilder(dim).type("linear")``.

    Examples
    --------
    >>> from ruvector import sdk
    >>> sdk.linear(512, 256).build()
    <Attention performer(dim=512, num_features=256, orthogonal=True)>
    """
    return AttentionBuilder(dim).type("performer", num_features=num_features)


def local_global(dim, window_size):
    """Attention over a window, and over a first token that sees and is seen by all: type longformer.

    Parameters
    ----------
    dim : int
    window_size : int
        Keys at most ``window_size // 2`` positions away are seen.

    Returns
    -------
    AttentionBuilder
        ``.local_global(window_size, global_tokens)`` has more global tokens than one.

    Examples
    --------
    >>> from ruvector import sdk
    >>> sdk.local_global(512, 256).build()
    <Attention longformer(dim=512, window_size=256, global_tokens=1)>
    """
    return AttentionBuilder(dim).type("longformer", window_size=window_size)


def hyperbolic(dim, curvature):
    """Attention by distance in the Poincare ball: type poincare.

    Parameters
    ----------
    dim : int
    curvature : float
        Not 0; the space has curvature ``-abs(curvature)``.

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> from ruvector import sdk
    >>> sdk.hyperbolic(512, -1.0).build()
    <Attention poincare(dim=512, curvature=-1.0)>
    """
    return AttentionBuilder(dim).type("poincare", curvature=curvature)


def moe(dim, num_experts, top_k):
    """Attention whose heads are experts: each query goes to the best of them.

    Parameters
    ----------
    dim : int
    num_experts : int
        Divides dim.
    top_k : int
        Experts of a query, from 1 to num_experts.

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> from ruvector import sdk
    >>> sdk.moe(512, 8, 2).expert_capacity(1.25).jitter_noise(0.01).build()
    <Attention moe(dim=512, num_experts=8, top_k=2, capacity_factor=1.25, jitter_noise=0.01)>
    """
    return AttentionBuilder(dim).type("moe", num_experts=num_experts, top_k=top_k)
