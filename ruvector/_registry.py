"""The only table of attention types: records read from the C catalogue, and types made in Python.

A type is resolved once, by `get_attention`, into an object that is called with arrays.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ruvector import _coerce
from ruvector._attention import CompiledType
from ruvector._options import flag, float64_array, nonzero, number, one_of, probability
from ruvector._rotary import RopeScaling
from ruvector._ruvector_core import catalog


class UnknownAttentionType(ValueError, LookupError):
    """No attention type has that name; the message lists those that exist."""


# What is said of the range of parameters that have no limits.
_RANGES = MappingProxyType(
    {
        "bool": "True or False",
        "array": "an array",
        "nonzero": "a number other than 0, or an array of them",
        "graph": "edges",
        "rope_scaling": "a RopeScaling",
        "pattern": "a Pattern",
        "tokens": "a count, or positions",
        "layout": "boolean blocks",
    }
)
# Kinds of parameters that are checked where they are used.
_OWN_CHECKS = MappingProxyType({"pattern": _coerce.pattern, "tokens": _coerce.tokens, "layout": _coerce.layout})


@dataclass(frozen=True)
class Parameter:
    """One option of an attention type.

    Attributes
    ----------
    name : str
    type : str
        ``"int"``, ``"float"``, ``"bool"``, ``"array"``, words such as ``"elu|relu"``, ``"nonzero"`` (a number other than 0, or
        an array of them that broadcasts to the leading axes), ``"graph"`` (edges: integers of shape (2, E), or a CSRGraph),
        ``"rope_scaling"`` (a RopeScaling, or a mapping of its keys), ``"pattern"`` (a Pattern, or the name of one), ``"tokens"``
        (a count, or positions) or ``"layout"`` (boolean blocks).
    default : int, float, bool, str or None
    low, high : float or None
        Inclusive range; None where there is no limit.
    description : str
    """

    name: str
    type: str
    default: Any
    low: float | None
    high: float | None
    description: str

    def check(self, value):
        """`value` in this parameter's type, or TypeError / ValueError."""
        if value is None and self.default is None:
            return None
        if self.type == "array":
            return float64_array(value, self.name)
        if self.type == "graph":
            return _coerce.edges(value, self.name)
        if self.type == "rope_scaling":
            return RopeScaling.of(value)
        if self.type in _OWN_CHECKS:
            return _OWN_CHECKS[self.type](value, self.name)
        if self.type == "nonzero":
            return nonzero(value, self.name)
        if self.type == "bool":
            return flag(value, self.name)
        if "|" in self.type:
            return one_of(value, self.name, self.type.split("|"))
        value = number(value, self.name, whole=self.type == "int")
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise ValueError(f"{self.name} must be {self.range_text()}, got {value}")
        return value

    def range_text(self):
        """The range in words: ``at least 1``, ``between 1 and 1024``, ``True or False``."""
        if self.type not in ("int", "float"):
            return _RANGES.get(self.type, self.type)
        if self.high is None:
            return "any number" if self.low is None else f"at least {self.low:.10g}"
        return f"between {self.low:.10g} and {self.high:.10g}"


@dataclass(frozen=True)
class AttentionRecord:
    """What is known of an attention type.

    Attributes
    ----------
    name : str
    aliases : tuple of str
    complexity : str
        Cost in the number of keys n (m, w, E ...: the second length, the window, the edges).
    best_for : str
    family : str
    parameters : tuple of Parameter
        Its own; `mask`, `causal`, `scale`, `dropout`, `training`, `rng` and `out` are common to all.
    reference : str
        The paper that defines it.
    """

    name: str
    aliases: tuple[str, ...]
    complexity: str
    best_for: str
    family: str
    parameters: tuple[Parameter, ...]
    reference: str


class Composition(NamedTuple):
    """A type made in Python: its record, what runs it, what gives its weights, where it has any, what checks a width, and the common
    options that have no meaning in it."""

    record: AttentionRecord
    fn: Callable
    weights: Callable | None = None
    fits: Callable | None = None
    lacks: tuple[str, ...] = ()


def _read_catalog():
    records = []
    for row in catalog():
        parameters = []
        for name, kind, default, low, high, description in row["parameters"]:
            words = kind.split("|") if "|" in kind else None
            if words:
                parameters.append(Parameter(name, kind, words[int(default)], None, None, description))
                continue
            convert = {"int": int, "float": float, "bool": bool, "nonzero": float, "array": lambda value: None}[kind]
            parameters.append(
                Parameter(
                    name,
                    kind,
                    convert(default),
                    None if math.isinf(low) else convert(low),
                    None if math.isinf(high) else convert(high),
                    description,
                )
            )
        fields = {k: row[k] for k in ("name", "complexity", "best_for", "family", "reference")}
        records.append(AttentionRecord(aliases=tuple(row["aliases"]), parameters=tuple(parameters), **fields))
    return records


# The usage guide's rows, which come first.
_GUIDE = (
    "scaled_dot",
    "multi_head",
    "flash_v2",
    "linear",
    "gat",
    "sparse",
    "moe",
    "cross",
    "sliding_window",
    "poincare",
)

_compiled: list[AttentionRecord] = _read_catalog()
_shared = frozenset(row["name"] for row in catalog() if row["shared"])
_python: dict[str, Composition] = {}
_scores: dict[str, Callable] = {}
_tables: dict[str, Callable] = {}
_products: dict[str, Callable] = {}
_offsets: dict[str, Callable] = {}
_shares: set[str] = set()
_weighing: set[str] = set()
_names: dict[str, str] = {n: r.name for r in _compiled for n in (r.name, *r.aliases)}
_index: dict[str, int] = {r.name: i for i, r in enumerate(_compiled)}


def records() -> list[AttentionRecord]:
    """Records of the C catalogue, in its order."""
    return _compiled


def attention_types() -> tuple[AttentionRecord, ...]:
    """All attention types, the usage guide's first.

    Returns
    -------
    tuple of AttentionRecord

    Examples
    --------
    >>> import ruvector
    >>> [record.name for record in ruvector.attention_types()][:3]
    ['scaled_dot', 'multi_head', 'flash_v2']
    """
    found = {record.name: record for record in (*_compiled, *(composition.record for composition in _python.values()))}
    return tuple(found[name] for name in dict.fromkeys((*_GUIDE, *found)) if name in found)


def canonical(name) -> str:
    """The canonical name behind a name or alias in any case."""
    if not isinstance(name, str):
        raise TypeError(f"attention type must be a name or an AttentionType, got {name!r}")
    found = _names.get(name) or _names.get(name.lower())
    if found is None:
        known = [record.name for record in attention_types()]
        close = difflib.get_close_matches(name.lower(), _names, n=1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        raise UnknownAttentionType(f"Unknown attention type: {name!r}. Available: {', '.join(known)}{hint}")
    return found


def record_of(name) -> AttentionRecord:
    """The record of a canonical name."""
    return _compiled[_index[name]] if name in _index else _python[name].record


def head_counts(name, own) -> tuple[int, int]:
    """Heads of the query and of the keys in a type that C runs, by its name and parameters."""
    num_heads = own.get("num_heads", 1)
    return num_heads, 1 if name in _shared else own.get("num_kv_heads", num_heads)


def has_score(name) -> bool:
    """Whether a pair of a query and a key has a score in this type."""
    return name in _scores or name in _index


def score_of(name) -> Callable | None:
    """The score of a type that does not score by dot products: ``(query, key, *, scale, **own parameters)``."""
    return _scores.get(name)


def table_of(name) -> Callable | None:
    """The scores (m, n) of queries (m, d) with rows (n, d), where a type has something faster for them than `score_of`: the same
    within rounding, by the same arguments, and the bits of a pair depend on nothing else."""
    return _tables.get(name)


def products_of(name) -> Callable | None:
    """``(*, scale, **own parameters)`` to the type that C runs by whose products a type of Python scores and weighs where all
    positions are equal; to None where it does not with these parameters."""
    return _products.get(name)


def offset_of(name) -> Callable | None:
    """What `score_of` adds to those products: ``(queries (m, d), *, scale, **own parameters)`` to an array that broadcasts to
    (m, 1). The weights do not change by it."""
    return _offsets.get(name)


def weighs_itself(name) -> bool:
    """Whether a type's weights are neither the softmax of its score nor the mean over heads of theirs, and know no positions."""
    return name in _weighing


def score_is_share(name) -> bool:
    """Whether a type's weights are its scores over their sum, not their softmax."""
    return name in _shares


def add_type(
    record,
    fn=None,
    *,
    score=None,
    table=None,
    products=None,
    offset=None,
    share=False,
    weighs=False,
    weights=None,
    fits=None,
    lacks=(),
):
    """Adds a type of the package: the record of a composition and its function, or the name of a type that C runs.

    `score` is what `score_of` returns, `table`, `products` and `offset` what `table_of`, `products_of` and `offset_of`, `share`
    and `weighs` what `score_is_share` and `weighs_itself` do;
    `weights(query, key, mask, *, causal, scale, **own parameters)` gives the weights (..., L, S) of a composition, their mean
    over heads; `fits(width, **own parameters)` raises what a call with queries of that width would, as far as no key is
    needed to tell. `lacks`: those of causal, scale and dropout that a composition refuses.
    """
    name = record if isinstance(record, str) else record.name
    if fn is not None:
        _python[name] = Composition(record, fn, weights, fits, lacks)
        _names.update(dict.fromkeys((name, *record.aliases), name))
    if score is not None:
        _scores[name] = score
    for found, values in ((table, _tables), (products, _products), (offset, _offsets)):
        if found is not None:
            values[name] = found
    if share:
        _shares.add(name)
    if weighs:
        _weighing.add(name)


def register(name, fn, *, aliases=(), complexity="", best_for="", family="custom", parameters=(), reference=""):
    """Adds an attention type made in Python.

    Parameters
    ----------
    name : str
        Lower-case identifier that no type or alias has yet.
    fn : callable
        ``fn(query, key, value, *, mask, causal, scale, dropout, training, rng, **parameters)`` returning the output;
        mask, causal and dropout are its own to honour.
    aliases : sequence of str, optional
    complexity, best_for, family, reference : str, optional
    parameters : sequence of Parameter, optional
        Checked before `fn` is called.

    Raises
    ------
    TypeError
        If `fn` is not callable, or a name is not a string.
    ValueError
        If a name is taken or is not a lower-case identifier.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> def mean(query, key, value, **options):
    ...     return np.broadcast_to(np.mean(value, -2, keepdims=True), (*query.shape[:-1], value.shape[-1]))
    >>> ruvector.register("mean_of_values", mean, complexity="O(n)")
    >>> ruvector.attention(np.ones((2, 3)), np.ones((4, 3)), np.arange(4.0)[:, None], "mean_of_values")
    array([[1.5],
           [1.5]])
    """
    if not callable(fn):
        raise TypeError(f"fn must be callable, got {fn!r}")
    if isinstance(aliases, str):
        raise TypeError(f"aliases must be a sequence of names, got {aliases!r}")
    names = (name, *aliases)
    for each in names:
        if not isinstance(each, str):
            raise TypeError(f"name must be a string, got {each!r}")
        if not each.isidentifier() or each != each.lower():
            raise ValueError(f"name must be a lower-case identifier, got {each!r}")
        if each in _names:
            raise ValueError(f"attention type name {each!r} is taken by {_names[each]!r}")
    for parameter in parameters:
        if not isinstance(parameter, Parameter):
            raise TypeError(f"parameters must be ruvector.Parameter records, got {parameter!r}")
    record = AttentionRecord(name, tuple(aliases), complexity, best_for, family, tuple(parameters), reference)
    add_type(record, fn)


_COMMON = ("causal", "scale", "dropout")
# What has no meaning in a type that C runs: elu and relu take no scale, and linear forms have no weights to drop.
_LACKS = {
    "causal": ("causal",),
    "linear": ("scale", "dropout"),
    "performer": ("dropout",),
    "random_feature": ("dropout",),
}
# The core takes whole numbers below this, all of which float64 holds.
_MOST = 9_000_000_000_000_000


def common_options(name) -> tuple[str, ...]:
    """The options of all types that have a meaning in the one of this canonical name."""
    lacks = _python[name].lacks if name in _python else _LACKS.get(name, ())
    return tuple(key for key in _COMMON if key not in lacks)


def resolve(name, options) -> tuple[AttentionRecord, dict, dict]:
    """A canonical record, its own parameters with defaults filled in, and the common options given."""
    if isinstance(name, AttentionType):
        options = {**name.params, **options}
        name = name.name
    record = record_of(canonical(name))
    own = {p.name: p.default for p in record.parameters}
    common = {}
    shared = common_options(record.name)
    for key, value in options.items():
        if key in own:
            own[key] = next(p for p in record.parameters if p.name == key).check(value)
            if record.name in _index and isinstance(own[key], int) and own[key] >= _MOST:
                raise ValueError(f"{key} must be less than {_MOST:.0e}, got {value}")
        elif key not in shared:
            raise TypeError(
                f"attention type {record.name!r} has no option {key!r}; it has {', '.join([*own, *shared])}"
            )
        elif key == "causal":
            common[key] = flag(value, key)
        elif key == "scale":
            common[key] = None if value is None else number(value, key)
            if value is not None and record.family == "linear" and common[key] <= 0:
                raise ValueError(f"scale of attention type {record.name!r} must be positive, got {value}")
        else:
            common[key] = probability(value, key)
    return record, own, common


def _hashable(value):
    return (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def _remake_type(name, params):
    return AttentionType(name, **params)


def camel(name):
    """``sliding_window`` as ``SlidingWindow``."""
    return "".join(part.capitalize() for part in name.split("_"))


class _Constructor:
    """``AttentionType.FlashV2`` and its siblings, from the table of types."""

    def __init__(self, name):
        self.name = name
        self.__doc__ = f"The attention type {name!r} with the given parameters."

    def __call__(self, **params):
        return AttentionType(self.name, **params)

    def __repr__(self):
        return f"<constructor of AttentionType {self.name!r}>"


class _AttentionTypeMeta(type):
    def __getattr__(cls, name):
        # in any case, so that MoE is found as well
        for record in attention_types():
            if camel(record.name).lower() == name.lower():
                return _Constructor(record.name)
        known = ", ".join(camel(record.name) for record in attention_types())
        raise AttributeError(f"AttentionType has no member {name!r}; it has {known}")

    def __dir__(cls):
        return [*super().__dir__(), *(camel(record.name) for record in attention_types())]

    def __iter__(cls) -> Iterator[_Constructor]:
        return (_Constructor(record.name) for record in attention_types())


class AttentionType(metaclass=_AttentionTypeMeta):
    """An attention type together with parameters, as a value: ``AttentionType.FlashV2(block_size=64)``.

    There is one constructor for each type of `attention_types()`, in CamelCase. The record is accepted wherever a type's
    name is.

    Attributes
    ----------
    name : str
        Canonical name.
    params : dict
        The parameters that were given, checked.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.AttentionType.FlashV2(block_size=128)
    AttentionType.FlashV2(block_size=128)
    """

    __slots__ = ("name", "params")

    name: str
    params: dict

    def __init__(self, name, **params):
        record, own, common = resolve(name, params)
        checked = {**own, **common}
        object.__setattr__(self, "name", record.name)
        object.__setattr__(self, "params", MappingProxyType({key: checked[key] for key in params}))

    def __setattr__(self, name, value):
        raise AttributeError("an AttentionType cannot be changed")

    def _key(self):
        return (self.name, tuple(sorted((k, _hashable(v)) for k, v in self.params.items())))

    def __eq__(self, other):
        return self._key() == other._key() if isinstance(other, AttentionType) else NotImplemented

    def __hash__(self):
        return hash(self._key())

    def __reduce__(self):
        return _remake_type, (self.name, dict(self.params))

    def __repr__(self):
        return f"AttentionType.{camel(self.name)}({', '.join(f'{k}={v!r}' for k, v in self.params.items())})"


class _Resolved:
    """What compiled and composed attention objects share: they are values, told apart by type and options."""

    __slots__ = ()

    def __setattr__(self, name, value):
        raise AttributeError(
            f"a resolved attention cannot be changed; resolve another with get_attention({self.name!r}, ...)"
        )

    def _key(self):
        return (self.name, tuple((k, _hashable(v)) for k, v in self.params.items()))

    def __eq__(self, other):
        return self._key() == other._key() if isinstance(other, _Resolved) else NotImplemented

    def __hash__(self):
        return hash(self._key())

    def __reduce__(self):
        return _remake, (self.name, {k: v for k, v in self.params.items() if v is not None})

    def __repr__(self):
        options = ", ".join(f"{k}={v!r}" for k, v in self.params.items() if v is not None)
        return f"<attention {self.name}({options})>"


def _remake(name, params):
    return get_attention(name, **params)


class CompiledAttention(_Resolved, CompiledType):
    """A resolved attention type that the C core runs; made by `get_attention`."""

    __slots__ = ("name", "params")

    def __init__(self, record, own, common):
        object.__setattr__(self, "name", record.name)
        object.__setattr__(self, "params", MappingProxyType({**own, **common}))
        arrays = [own[p.name] for p in record.parameters if isinstance(own[p.name], np.ndarray)]
        numbers = [
            0.0
            if p.type == "array"
            else 1.0
            if isinstance(own[p.name], np.ndarray)
            else float(p.type.split("|").index(own[p.name]))
            if "|" in p.type
            else float(own[p.name])
            for p in record.parameters
        ]
        self._bind(
            _index[record.name],
            numbers,
            common.get("scale"),
            common.get("causal", False),
            common.get("dropout", 0.0),
            next((a for a in arrays if a is not None), None),
        )

    def _fits(self, width):
        """Refuses parameters that no query of this width goes with."""
        num_heads, num_kv_heads = head_counts(self.name, self.params)
        _coerce.check_heads(num_heads, num_kv_heads, width, num_kv_heads)
        projection, slopes = self.params.get("projection"), self.params.get("slopes")
        if projection is not None and (projection.ndim != 2 or projection.shape[1] != width or len(projection) < 1):
            _coerce.refuse_projection(projection.shape, width)
        if slopes is not None and slopes.shape[-1] not in (1, num_heads):
            _coerce.refuse_slopes(slopes, (), num_heads)

    def _weights(self, query, keys, mask):
        if record_of(self.name).family != "linear":
            return super()._weights(query, keys, mask)
        # nothing holds them: they are what the values' unit vectors are weighted with
        query, keys = _coerce.pair(query, keys, "query", "keys")
        return self(query, keys, np.eye(keys.shape[-2] if keys.ndim > 1 else 1, dtype=query.dtype), mask=mask)


class ComposedAttention(_Resolved):
    """A resolved attention type made in Python; made by `get_attention`."""

    __slots__ = ("name", "params", "_composition")

    def __init__(self, record, own, common, composition):
        object.__setattr__(self, "name", record.name)
        object.__setattr__(self, "params", MappingProxyType({**own, **common}))
        object.__setattr__(self, "_composition", composition)

    def _options(self):
        return {"causal": False, "scale": None, "dropout": 0.0, **self.params}

    def __call__(self, query, key, value, *, mask=None, training=False, rng=None, out=None):
        query, key, value = _coerce.inputs(query, key, value)
        if mask is not None:
            mask = _coerce.mask(mask, query.dtype == np.float64, False)
        result = self._composition.fn(query, key, value, mask=mask, training=training, rng=rng, **self._options())
        if out is None:
            return result
        _coerce.output(out, np.shape(result), np.asarray(result).dtype, ())
        out[...] = result
        return out

    def _fits(self, width):
        """Refuses parameters that no query of this width goes with."""
        if self._composition.fits is not None:
            own = {p.name: self.params[p.name] for p in self._composition.record.parameters}
            self._composition.fits(width, **own)

    def _weights(self, query, keys, mask):
        query, keys = _coerce.pair(query, keys, "query", "keys")
        if mask is not None:
            mask = _coerce.mask(mask, query.dtype == np.float64, False)
        options = self._options()
        del options["dropout"]
        return self._composition.weights(query, keys, mask, **options)


def get_attention(name, **params):
    """Resolves an attention type once, for many calls.

    Parameters
    ----------
    name : str or AttentionType
        A name or alias in any case, or a record.
    **params
        The type's own parameters, and `causal`, `scale`, `dropout`.

    Returns
    -------
    callable
        ``(query, key, value, *, mask=None, training=False, rng=None, out=None)``, with attributes `name` and `params`;
        comparable, hashable and picklable.

    Raises
    ------
    UnknownAttentionType
        If no type has that name.
    TypeError
        For an option the type does not have, or of the wrong type.
    ValueError
        For a value out of its range.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.get_attention("sliding", window_size=128)
    <attention sliding_window(window_size=128)>
    """
    record, own, common = resolve(name, params)
    if record.name in _index:
        return CompiledAttention(record, own, common)
    return ComposedAttention(record, own, common, _python[record.name])
