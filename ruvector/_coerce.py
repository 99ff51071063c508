"""From whatever users pass to what kernels read, and every error text about arrays.

Arrays that kernels can read where they lie never come here: this is the slow path of the
compiled modules, where a copy or an exception is made.
"""

from __future__ import annotations

import operator

import numpy as np

_PLAIN = {np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)}
_bfloat16 = None


def is_bfloat16(dtype):
    """Whether this is ml_dtypes' bfloat16; the first one seen teaches the compiled modules its number."""
    global _bfloat16
    if _bfloat16 is None and dtype.type.__name__ == "bfloat16" and dtype.itemsize == 2:
        from ruvector import _attention, _cache, _hyperbolic, _layers, _moe, _primitives

        for module in (_attention, _cache, _hyperbolic, _layers, _moe, _primitives):
            module._learn_bfloat16(dtype.num)
        _bfloat16 = dtype
    return dtype == _bfloat16 if _bfloat16 is not None else False


def array(x, name):
    """`x` as an ndarray of a real dtype: no copy for anything that shares its memory."""
    if type(x) is np.ndarray and x.dtype.char in "efd" and x.dtype.isnative:
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; pass its data and, as a mask, ~np.ma.getmaskarray({name})")
    if not isinstance(x, np.ndarray):
        x = _foreign(x, name)
    x = np.asarray(x)
    dtype = x.dtype
    if dtype.newbyteorder("=") in _PLAIN or is_bfloat16(dtype):
        return x
    if dtype.kind in "biu":
        return x.astype(np.float64)
    if dtype.kind == "f":
        raise TypeError(
            f"{name} has dtype {dtype}; expected float16, bfloat16, float32, float64, an integer or a boolean dtype"
        )
    raise TypeError(f"{name} has dtype {dtype}, which is not real; expected a floating, integer or boolean dtype")


def is_floating(dtype):
    """Whether arrays of this dtype are computed with as they are: the floating ones, integers being turned into float64."""
    return dtype in _PLAIN or is_bfloat16(dtype)


def whole_array(x, name):
    """`x` as an ndarray of any dtype, every element of which counts."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; pass an array of what is meant")
    return x if isinstance(x, np.ndarray) else np.asarray(_foreign(x, name))


def _foreign(x, name):
    """An array of a sequence, a DLPack or `__array__` producer."""
    if getattr(x, "requires_grad", False):
        raise TypeError(f"{name} requires grad, and ruvector does not record gradients; pass {name}.detach()")
    if hasattr(x, "__array__") or isinstance(x, (list, tuple, int, float, bool)):
        try:
            return np.asarray(x)
        except TypeError as error:
            bfloat16 = _torch_bfloat16(x)
            if bfloat16 is not None:
                return bfloat16
            raise TypeError(f"{name} of type {type(x).__name__} cannot become an array: {error}") from None
        except ValueError as error:
            raise ValueError(f"{name} cannot become an array: {error}") from None
    if hasattr(x, "__dlpack__"):
        try:
            return np.from_dlpack(x)
        except (TypeError, ValueError, BufferError, RuntimeError) as error:
            raise TypeError(f"{name} of type {type(x).__name__} cannot be read through DLPack: {error}") from None
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} cannot become an array: {error}") from None


def _torch_bfloat16(x):
    """A torch bfloat16 tensor through its bits, which NumPy cannot name itself."""
    if str(getattr(x, "dtype", "")) != "torch.bfloat16":
        return None
    import ml_dtypes

    import torch

    return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def computed_in(dtype):
    """float32 or float64: the type of the arithmetic on arrays of a dtype."""
    return np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)


def matmul(a, b, out=None):
    """NaN and infinity pass through without a warning, as they do in the kernels."""
    with np.errstate(all="ignore"):
        return np.matmul(a, b, out=out)


def _promote(arrays):
    """One dtype for all, by NumPy's promotion; bfloat16 with float16 is float32, which holds both."""
    first = arrays[0].dtype
    if first.isnative and all(x.dtype is first for x in arrays):
        return first
    dtypes = {x.dtype.newbyteorder("=") for x in arrays}
    if len(dtypes) == 1:
        return dtypes.pop()
    half = {np.dtype(np.float16)} | ({_bfloat16} if _bfloat16 is not None else set())
    if dtypes <= half:
        return np.dtype(np.float32)
    if dtypes <= half | {np.dtype(np.float32)}:
        return np.dtype(np.float32)
    return np.dtype(np.float64)


def plain(x, dtype):
    """`x` with native byte order, aligned, and rows that kernels can read; a copy only where one is needed."""
    if x.dtype != dtype or not x.dtype.isnative:
        return np.ascontiguousarray(x, dtype) if x.ndim else np.array(x, dtype)
    if x.size == 0:
        return x
    item = x.itemsize
    flags = x.flags
    rows = all(s % item == 0 for s in x.strides[:-1])
    last = x.ndim == 0 or x.strides[-1] == item or x.shape[-1] <= 1
    if flags.aligned and rows and last:
        return x
    return np.array(x, order="C")


def inputs(query, key, value):
    """Query, key and value in one dtype."""
    query, key, value = array(query, "query"), array(key, "key"), array(value, "value")
    dtype = _promote((query, key, value))
    return plain(query, dtype), plain(key, dtype), plain(value, dtype)


def plural(query, keys, values):
    """The same arrays, with what needs conversion converted under the names that functions in the plural use."""
    return [
        x if type(x) is np.ndarray and x.dtype.char in "efd" else array(x, name)
        for x, name in ((query, "query"), (keys, "keys"), (values, "values"))
    ]


def pair(a, b, a_name="a", b_name="b"):
    a, b = array(a, a_name), array(b, b_name)
    dtype = _promote((a, b))
    return plain(a, dtype), plain(b, dtype)


def contiguous(x):
    """C-contiguous float32 or float64."""
    x = array(x, "x")
    dtype = x.dtype if x.dtype in (np.float32, np.float64) else np.float32 if x.dtype.itemsize == 2 else np.float64
    return np.array(x, dtype, order="C")


def packed(x):
    """C-contiguous, dtype as it is."""
    return np.ascontiguousarray(x)


def row(value, name, width, dtype):
    """A vector of `width` numbers, contiguous."""
    value = array(value, name)
    if value.shape != (width,):
        raise ValueError(f"{name} must have shape ({width},), got {value.shape}")
    with np.errstate(over="ignore"):
        return np.array(value, dtype, order="C")


def empty(shape, dtype):
    return np.empty(shape, dtype)


def _broadcast(shapes, what):
    if shapes.count(shapes[0]) == len(shapes):
        return shapes[0]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"leading axes do not broadcast: {what}") from None


def dot_operands(a, b):
    """dot's operands as rows of one key each, and the shape of the result."""
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"a and b must have at least one axis, got shapes {a.shape} and {b.shape}")
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"the last axes of a and b must match: {a.shape[-1]} vs {b.shape[-1]}")
    lead = _broadcast((a.shape[:-1], b.shape[:-1]), f"a {a.shape}, b {b.shape}")
    _few_axes(len(lead) + 1, a, b)
    width = a.shape[-1]
    return np.broadcast_to(a, (*lead, width)), np.broadcast_to(b, (*lead, width))[..., None, :], lead


def dots_operands(query, keys):
    if query.ndim < 1 or keys.ndim < 2:
        raise ValueError(f"expected query (..., d) and keys (..., n, d), got shapes {query.shape} and {keys.shape}")
    if query.shape[-1] != keys.shape[-1]:
        raise ValueError(f"Query and key dimensions must match: {query.shape[-1]} vs {keys.shape[-1]}")
    lead = _broadcast((query.shape[:-1], keys.shape[:-2]), f"query {query.shape}, keys {keys.shape}")
    _few_axes(len(lead) + 2, query, keys)
    count, width = keys.shape[-2:]
    return np.broadcast_to(query, (*lead, width)), np.broadcast_to(keys, (*lead, count, width)), (*lead, count)


def unit(dtype):
    """The unit roundoff of a floating storage type; of float64 for what becomes it."""
    if is_bfloat16(dtype):
        return 2.0**-8
    return float(np.finfo(dtype).eps) / 2 if dtype.kind == "f" else 2.0**-53


def point_operands(a, b, own, time, names):
    """Points a (..., d) and b (..., d), or (..., m, d) and (..., n, d) where `own` is 2, over the same leading axes; the shape
    of their distances; names and shapes as given."""
    a, b = pair(a, b, *names)
    both = " and ".join(names)
    wanted = "(..., d)" if own == 1 else "(..., m, d) and (..., n, d)"
    if a.ndim < own or b.ndim < own:
        raise ValueError(f"{both} must have shapes {wanted}, got {a.shape} and {b.shape}")
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"the last axes of {both} must match: {a.shape[-1]} vs {b.shape[-1]}")
    if a.shape[-1] < 1 + time:
        least = "a time and a space component" if time else "a component"
        raise ValueError(f"points must have at least {least}, got shapes {a.shape} and {b.shape}")
    lead = _broadcast((a.shape[:-own], b.shape[:-own]), f"{names[0]} {a.shape}, {names[1]} {b.shape}")
    _few_axes(len(lead) + own, a, b)
    shape = lead if own == 1 else (*lead, a.shape[-2], b.shape[-2])
    named = (names[0], a.shape), (names[1], b.shape)
    # a view costs 2 us, five times what a short distance does
    a, b = (x if x.shape[:-own] == lead else np.broadcast_to(x, (*lead, *x.shape[-own:])) for x in (a, b))
    return a, b, shape, named


def _few_axes(axes, *arrays):
    if axes > 32:
        raise ValueError(f"at most 32 axes are supported, got shapes {', '.join(str(x.shape) for x in arrays)}")


def axis_of(x, axis, name="x"):
    """`axis` as an int that x has."""
    if x.ndim == 0:
        raise ValueError(f"{name} must have at least one axis, got shape {x.shape}")
    try:
        axis = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be an integer, got {axis!r}") from None
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} is out of range for {name} with shape {x.shape}")
    return axis


def rows_along(x, axis, name="x"):
    """An array with `axis` last, C-contiguous, aligned and of native byte order; a copy only where one is needed."""
    moved = np.moveaxis(x, axis_of(x, axis, name), -1)
    return np.require(moved, x.dtype.newbyteorder("="), ["C", "A"])


def along_axis(rows, x, axis, out):
    """`rows(array, out)`, which works on the last axis of C-contiguous arrays, along any axis of anything."""
    x = array(x, "x")
    axis = axis_of(x, axis)
    dtype = x.dtype.newbyteorder("=")
    if out is not None:
        _check_output(out, x.shape, dtype)
    moved = np.moveaxis(x, axis, -1)
    source = np.ascontiguousarray(moved, dtype)
    if not source.flags.aligned:
        source = source.copy()
    if out is not None and axis in (-1, x.ndim - 1) and out.flags.c_contiguous and out.flags.aligned:
        if not np.may_share_memory(out, source) or (out.ctypes.data == source.ctypes.data):
            rows(source, out)
            return out
    # a fresh copy of the source may hold the result
    result = np.moveaxis(
        rows(source, source if source is not moved and not np.may_share_memory(source, x) else None), -1, axis
    )
    if out is None:
        return result
    out[...] = result
    return out


def entmax_alpha(alpha, most):
    """The alpha of entmax as a float."""
    from ruvector._options import number

    alpha = number(alpha, "alpha")
    if not 1 <= alpha <= most:
        raise ValueError(f"alpha must be between 1 and {most}, got {alpha}")
    return alpha


def _check_output(out, shape, dtype):
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out has dtype {out.dtype}; the result's is {dtype}")
    if out.shape != tuple(shape):
        raise ValueError(f"out has shape {out.shape}; the result's is {tuple(shape)}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")


def output(out, shape, dtype, sources):
    """`out` when kernels can write into it, else room of its shape: the caller copies. Overlap is NumPy's: as if copied."""
    _check_output(out, shape, dtype)
    if any(isinstance(x, np.ndarray) and np.may_share_memory(out, x) for x in sources) or plain(out, dtype) is not out:
        return np.empty(shape, dtype)
    # a broadcast view would be written twice; its elements are not room for a result
    if out.size and any(s == 0 and n > 1 for s, n in zip(out.strides, out.shape, strict=True)):
        raise ValueError(f"out has overlapping elements (strides {out.strides})")
    return out


def mask(x, double, single, name="mask"):
    """A boolean mask, or a float one in the type of the arithmetic; with one query (1-D), a row axis is put in."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; pass a boolean or floating array")
    if not isinstance(x, np.ndarray):
        x = np.asarray(_foreign(x, name))
    if x.dtype.kind != "b":
        if x.dtype.newbyteorder("=") not in _PLAIN and not is_bfloat16(x.dtype):
            raise TypeError(f"{name} has dtype {x.dtype}; expected bool (True = attend) or a floating dtype (added)")
        dtype = np.dtype(np.float64 if double else np.float32)
        item = dtype.itemsize
        if x.dtype != dtype or not x.flags.aligned or any(s % item for s in x.strides):
            with np.errstate(over="ignore"):
                x = np.array(x, dtype, order="C")
    if single and x.ndim:
        x = x[..., None, :]
    return x


def edges(edge_index, name):
    """A graph, or edges as integers (2, E) of their own."""
    from ruvector.csr import CSRGraph, edge_list

    return edge_index if isinstance(edge_index, CSRGraph) else np.stack(edge_list(edge_index, name))


def csr_lists(indptr, indices):
    """The two arrays of lists one after another: where each starts, and what they hold."""
    arrays = []
    for given, name in ((indptr, "indptr"), (indices, "indices")):
        x = whole_array(given, name)
        # an empty list has no dtype of its own
        if x.dtype.kind not in "iu" and not (x.size == 0 and x is not given):
            raise TypeError(f"{name} has dtype {x.dtype}; expected an integer dtype")
        if x.ndim != 1:
            raise ValueError(f"{name} must have one axis, got shape {x.shape}")
        arrays.append(x)
    starts, indices = arrays
    if len(starts) < 1 or starts[0] != 0 or starts[-1] != len(indices) or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"indptr must rise from 0 to the {len(indices)} indices, got {starts[:5].tolist()} ...")
    return starts, indices


def csr_range(indices, count, what):
    """Refuses an index that is not below `count`."""
    bad = (indices < 0) | (indices >= count)
    if bad.any():
        at = int(bad.argmax())
        raise IndexError(f"indices[{at}] is {indices[at]}, out of range for {count} {what}")


def pattern(value, name):
    """A Pattern, or the word for one of Child et al."""
    from ruvector.patterns import Pattern

    if isinstance(value, Pattern):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name} must be 'strided', 'fixed' or a Pattern of ruvector.patterns, got {value!r}")
    if value not in ("strided", "fixed"):
        raise ValueError(f"{name} must be 'strided', 'fixed' or a Pattern of ruvector.patterns, got {value!r}")
    return value


def tokens(value, name):
    """A count of positions, or which."""
    from ruvector.patterns import _token_set

    return _token_set(value, name)


def layout(value, name):
    """Blocks (nQ, nK) or (H, nQ, nK), a copy."""
    from ruvector.patterns import _boolean

    return np.array(_boolean(value, name, (2, 3)))


def refuse_edge(source, target, edge, sources, targets):
    """The edge that has an end out of range."""
    row, side, count = (1, "target", targets) if 0 <= source[edge] < sources else (0, "source", sources)
    value = (target if row else source)[edge]
    raise IndexError(f"edge_index[{row}, {edge}] is {value}, out of range for {count} {side} nodes")


def explicit_generator(rng, what):
    """The generator that the option `what` draws from."""
    if rng is None:
        raise ValueError(f"{what} needs an explicit rng (a numpy.random.Generator or a seed), got None")
    return generator(rng)


def dropout_seed(rng):
    return int(explicit_generator(rng, "dropout").integers(2**63))


def generator(rng):
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise TypeError(f"rng must be a numpy.random.Generator or a seed for one, got {rng!r}: {error}") from None


def refuse_axes(query, key, value):
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if query.ndim < 1 or key.ndim < 2 or value.ndim < 2:
        raise ValueError(f"expected query (..., L, d) or (d,), key (..., S, d) and value (..., S, dv), got {shapes}")
    raise ValueError(f"at most 8 leading axes besides heads are supported, got {shapes}")


def refuse_shapes(query, key, value, heads, enable_gqa):
    """The first reason why these shapes do not fit each other."""
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if query.shape[-1] < 1:
        raise ValueError(f"head_dim must be at least 1, got {shapes}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"Query and key dimensions must match: {query.shape[-1]} vs {key.shape[-1]}")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"Keys and values must have same length: {key.shape[-2]} vs {value.shape[-2]}")
    if enable_gqa:
        counts = [x.shape[-3] if x.ndim > 2 else 1 for x in (query, key, value)]
        if 0 in counts[1:] or counts[0] % counts[1] or counts[0] % counts[2]:
            raise ValueError(
                f"the {counts[0]} query heads must be a multiple of the key ({counts[1]}) and value ({counts[2]}) heads"
            )
    elif heads:
        counts = {x.shape[-3] for x in (query, key, value) if x.ndim > 2} - {1}
        if len(counts) > 1:
            raise ValueError(f"the numbers of heads differ ({shapes}); enable_gqa=True shares key and value heads")
    raise ValueError(f"leading axes do not broadcast: {shapes}")


def refuse_heads(index, params, q_width, v_width):
    """Why a type's heads do not divide these widths."""
    from ruvector import _registry

    record = _registry.records()[index]
    options = dict(zip((p.name for p in record.parameters), params, strict=True))
    num_heads, num_kv_heads = map(int, _registry.head_counts(record.name, options))
    check_heads(num_heads, num_kv_heads, q_width, v_width)


def check_heads(num_heads, num_kv_heads, q_width, v_width):
    """Refuses heads that do not divide these widths."""
    if num_heads % num_kv_heads:
        raise ValueError(f"num_heads {num_heads} must be divisible by num_kv_heads {num_kv_heads}")
    if q_width % num_heads:
        raise ValueError(f"Query dimension {q_width} must be divisible by num_heads {num_heads}")
    if v_width % num_kv_heads:
        raise ValueError(
            f"Value dimension {v_width} must be divisible by {'num_kv_heads' if num_kv_heads != num_heads else 'num_heads'} {num_kv_heads}"
        )


def refuse_key_width(width, heads, head_dim):
    raise ValueError(
        f"Key dimension {width} must be num_kv_heads * head_dim = {heads} * {head_dim} = {heads * head_dim}"
    )


def refuse_mask(x, batch, heads, q_len, kv_len, name):
    want = (*batch, *(n for n in (heads, q_len) if n is not None), kv_len)
    raise ValueError(f"{name} shape {np.shape(x)} does not broadcast to {want}")


def fit_mask(mask, lead, q_len, kv_len, single=False, heads=None):
    """A converted mask with an axis of queries, and of heads where there are `heads`, that broadcasts to (*lead, ..., q_len, kv_len).

    The mask of a single query has no axis for it; a mask with one axis less than heads need is that of all heads.
    """
    given = mask
    if single and mask.ndim:
        mask = mask[..., None, :]
    mask = mask.reshape((1,) * (2 - mask.ndim) + mask.shape)
    full = (*lead, q_len, kv_len)
    of_heads = heads is not None and mask.ndim == len(full) + 1
    if heads is not None:
        mask = mask if of_heads else np.expand_dims(mask, -3)
        full = (*lead, heads, q_len, kv_len)
    if mask.ndim > len(full) or any(m not in (1, n) for m, n in zip(mask.shape[::-1], full[::-1])):
        refuse_mask(given, lead, heads if of_heads else None, None if single else q_len, kv_len, "mask")
    return mask


def refuse_slopes(x, batch, heads):
    want = f"({heads},)" + (f" or {(*batch, heads)}" if batch else "")
    raise ValueError(f"alibi_slopes shape {x.shape} does not fit {want}")


def aligned(shape, dtype):
    """An empty C-contiguous array that starts at a cache line: rows read in any order touch one line less."""
    dtype = np.dtype(dtype)
    count = 1
    for n in shape:
        count *= n
    try:
        room = np.empty(count * dtype.itemsize + 64, np.uint8)
    except ValueError:  # more than a pointer can count
        raise MemoryError(f"not enough memory for an array of shape {tuple(shape)} and dtype {dtype}") from None
    start = -room.ctypes.data % 64
    return room[start : start + count * dtype.itemsize].view(dtype).reshape(shape)


def cache_rows(x, name, dtype):
    """Keys or values in a dtype from which the rows of a cache of `dtype` are made."""
    x = array(x, name)
    own = x.dtype.newbyteorder("=")
    if dtype != np.float64 and own.itemsize <= 4:
        return plain(x, own)
    with np.errstate(over="ignore"):
        return plain(x, np.dtype(np.float32) if dtype == np.int8 else dtype)


def cache_query(x, double):
    """The dtype of the result, and the query in the type of the cache's arithmetic or in 16 bits."""
    x = array(x, "query")
    own = x.dtype.newbyteorder("=")
    if not double and own.itemsize <= 4:
        return None, plain(x, own)
    with np.errstate(over="ignore"):
        return own, plain(x, np.dtype(np.float64 if double else np.float32))


def refuse_cache_rows(cache, keys, values):
    """Which shapes keys and values must have to be appended."""
    lead = f"({cache.batch}, {cache.num_kv_heads}"
    want = [f"{lead}, n, {width}) or {lead}, {width})" for width in (cache.head_dim, cache.v_dim)]
    raise ValueError(
        f"keys must have shape {want[0]} and values {want[1]} with the same n"
        + (", the batch axis optional" if cache.batch == 1 else "")
        + f"; got keys {keys.shape} and values {values.shape}"
    )


def refuse_cache_query(cache, query):
    raise ValueError(
        f"query must have shape ({cache.batch}, H, L, {cache.head_dim}) or ({cache.batch}, H, {cache.head_dim}) with H a "
        f"multiple of num_kv_heads={cache.num_kv_heads}"
        + (", the batch axis optional where that is not ambiguous" if cache.batch == 1 else "")
        + f", got {query.shape}"
    )


def refuse_infinite(keys, values):
    """Names the first number that int8 cannot hold."""
    for x, name in ((keys, "keys"), (values, "values")):
        x = array(x, name)
        with np.errstate(over="ignore"):
            bad = np.argwhere(~np.isfinite(x.astype(np.float32)))
        if len(bad):
            where = tuple(int(i) for i in bad[0])
            raise ValueError(f"{name} must be finite in float32 to be stored as int8, got {x[where]} at {where}")


def refuse_widths(query, value):
    raise ValueError(
        "points need a component, on the hyperboloid with a time component a time and a space one; "
        f"got query {query.shape}, value {value.shape}"
    )


def refuse_numbers(name, shape, batch):
    raise ValueError(f"{name} shape {shape} does not broadcast to the leading axes {tuple(batch)}")


def refuse_point(name, shape, index, norm, time, expected, lorentz, curvature):
    """Why a row is no point of its space; `index` counts over the axes that `name`, of this shape, was broadcast to."""
    own = [0 if size == 1 else int(i) for i, size in zip(index[len(index) - len(shape) + 1 :], shape, strict=False)]
    where = f"{name}[{', '.join(str(i) for i in own)}]" if own else name
    c = abs(curvature)
    if not lorentz:
        raise ValueError(
            f"{where} has norm {norm:.9g}, not less than the radius {c**-0.5:.9g} of the ball of curvature {c:g}; "
            "project_to_ball moves points inside"
        )
    if expected == 0:
        raise ValueError(f"{where} has norm {norm:g}, whose square is not finite")
    raise ValueError(
        f"{where} is not on the hyperboloid of curvature {c:g}: its time component is {time:.9g}, its space-like part makes it "
        f"{expected:.9g}; space_only=True takes points without a time component"
    )


def refuse_projection(shape, dim):
    raise ValueError(f"projection must have shape (num_features, {dim}), as wide as the queries, got {shape}")


def refuse_mask_of_rows(given, boolean, name):
    """Masks that have no linear form."""
    if not boolean:
        raise ValueError(
            f"attention type {name!r} takes a boolean mask: a bias has no linear form, got dtype {np.asarray(given).dtype}"
        )
    raise ValueError(
        f"attention type {name!r} takes a mask over keys, of shape (..., S) or (..., 1, S): one that differs from query to query "
        f"has no linear form, got shape {np.shape(given)}"
    )
