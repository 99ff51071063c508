"""Hyperbolic geometry: distances, maps and averages in the Poincare ball and on the hyperboloid.

Curvature is ``-c``, ``c = abs(curvature)``: the ball has radius ``1 / sqrt(c)``, the hyperboloid is the sheet ``x0 > 0`` of
``-x0**2 + sum(x_i**2) = -1/c``, its points ``(x0, x_1 ... x_d)``. What is next to the sphere is computed from ``1 - c |x|^2``,
which the C core gives to a rounding, never from ``|x|`` itself.
"""

from __future__ import annotations

import numpy as np

from ruvector import _coerce, _hyperbolic
from ruvector._options import flag, nonzero, number

_BALL, _HYPERBOLOID = 0, 1


# Below the least normal number the radius has fewer digits, and its square may be infinite.
LEAST_CURVATURE = 2.0**-1022


def _curvature(curvature):
    curvature = nonzero(curvature, "curvature")
    if np.ndim(curvature):
        raise ValueError(f"curvature must be one number, got shape {np.shape(curvature)}")
    if abs(curvature) < LEAST_CURVATURE:
        raise ValueError(f"curvature must be at least {LEAST_CURVATURE:.3g} in size, got {curvature}")
    return curvature


def hyperbolic_distance(a, b, curvature=1.0):
    """Distance of points of the Poincare ball, ``2 asinh(sqrt(c |a-b|^2 / ((1 - c|a|^2) (1 - c|b|^2)))) / sqrt(c)``.

    Parameters
    ----------
    a, b : array_like, shapes (..., d)
        Points with ``c |x|^2 < 1``; leading axes broadcast.
    curvature : float, default 1.0
        ``c = abs(curvature)``; not 0.

    Returns
    -------
    NumPy scalar, or ndarray of shape (...)
        In the inputs' dtype (NumPy's promotion; integers and booleans become float64).

    Raises
    ------
    TypeError
        For a dtype that is not real.
    ValueError
        For a point on or outside the sphere, named with its norm, for shapes that do not fit, and for a curvature that is 0
        or not finite.

    See Also
    --------
    hyperbolic_cdist : all pairs of two sets.
    project_to_ball : moves points inside.

    Notes
    -----
    O(d). Within 2 units in the last place for every pair in the ball, points next to each other and next to the sphere
    included: differences come first, sums are in float64 (float32 inputs) or pairs of float64. One point against many is
    limited by the bandwidth at which they can be read. NaN gives NaN. For c -> 0 the distance tends to ``2 |a - b|``. The
    asinh form of the distance of Ganea et al. 2018 [1]_.

    References
    ----------
    .. [1] Ganea, Becigneul, Hofmann, Hyperbolic Neural Networks, arXiv:1805.09112

    Examples
    --------
    >>> import ruvector
    >>> round(float(ruvector.hyperbolic_distance([0.3, 0.4], [0.1, 0.2])), 7)
    0.6582194
    """
    return _hyperbolic.distance(a, b, _BALL, _curvature(curvature), True)


def hyperbolic_cdist(a, b, curvature=1.0):
    """Distances of every point of a to every point of b in the Poincare ball.

    Parameters
    ----------
    a : array_like, shape (..., m, d)
    b : array_like, shape (..., n, d)
        Points with ``c |x|^2 < 1``; leading axes broadcast.
    curvature : float, default 1.0
        ``c = abs(curvature)``; not 0.

    Returns
    -------
    ndarray, shape (..., m, n)

    Raises
    ------
    TypeError, ValueError
        As in `hyperbolic_distance`.

    Notes
    -----
    O(m n d). As exact as `hyperbolic_distance`: where an expansion into products would cancel, differences are taken. The
    order of the arguments does not change a bit, and equal points have distance 0.

    Examples
    --------
    >>> import ruvector
    >>> x = [[0.0, 0.0], [0.5, 0.0], [0.0, 0.8]]
    >>> ruvector.hyperbolic_cdist(x, x).round(4)
    array([[0.    , 1.0986, 2.1972],
           [1.0986, 0.    , 2.716 ],
           [2.1972, 2.716 , 0.    ]])
    """
    return _hyperbolic.cdist(a, b, _BALL, _curvature(curvature), True)


def lorentz_distance(a, b, curvature=1.0, *, space_only=False):
    """Distance of points of the hyperboloid, ``2 asinh(sqrt(c <a-b, a-b>) / 2) / sqrt(c)`` with the Minkowski product.

    Parameters
    ----------
    a, b : array_like, shapes (..., d + 1)
        Points, time component first; leading axes broadcast. The time component is checked against the space-like part (to
        0.1 %, less for 16-bit types) and computed again from it in float64, since its own rounding would decide the distance.
    curvature : float, default 1.0
        ``c = abs(curvature)``; not 0.
    space_only : bool, default False
        Points are given by their space-like part (..., d) alone.

    Returns
    -------
    NumPy scalar, or ndarray of shape (...)
        In the inputs' dtype (NumPy's promotion; integers and booleans become float64).

    Raises
    ------
    TypeError
        For a dtype that is not real.
    ValueError
        For a point that is not on the hyperboloid or not finite, for shapes that do not fit, and for a curvature that is 0 or
        not finite.

    Notes
    -----
    O(d). Within 2 units in the last place for points with ``sqrt(c) |x|`` below 1e22: pairs whose differences cancel, which
    lie far out in one direction, are computed again in pairs of float64 without a subtraction. The distance of Nickel and
    Kiela 2018 [1]_, in which acosh of a product near 1 loses what tells near points apart.

    References
    ----------
    .. [1] Nickel, Kiela, Learning Continuous Hierarchies in the Lorentz Model of Hyperbolic Geometry, arXiv:1806.03417

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> x, y = [np.cosh(1.0), np.sinh(1.0), 0.0], [np.cosh(3.0), np.sinh(3.0), 0.0]
    >>> round(float(ruvector.lorentz_distance(x, y)), 12)
    2.0
    >>> round(float(ruvector.lorentz_distance(x[1:], y[1:], space_only=True)), 12)
    2.0
    """
    return _hyperbolic.distance(a, b, _HYPERBOLOID, _curvature(curvature), flag(space_only, "space_only"))


def lorentz_cdist(a, b, curvature=1.0, *, space_only=False):
    """Distances of every point of a to every point of b on the hyperboloid.

    Parameters
    ----------
    a : array_like, shape (..., m, d + 1)
    b : array_like, shape (..., n, d + 1)
        Points as in `lorentz_distance`; leading axes broadcast.
    curvature : float, default 1.0
        ``c = abs(curvature)``; not 0.
    space_only : bool, default False
        Points are given by their space-like part (..., d) alone.

    Returns
    -------
    ndarray, shape (..., m, n)

    Raises
    ------
    TypeError, ValueError
        As in `lorentz_distance`.

    Notes
    -----
    O(m n d), as exact as `lorentz_distance`.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.lorentz_cdist([[0.0], [1.0]], [[0.0], [1.0], [-1.0]], space_only=True).round(4)
    array([[0.    , 0.8814, 0.8814],
           [0.8814, 0.    , 1.7627]])
    """
    return _hyperbolic.cdist(a, b, _HYPERBOLOID, _curvature(curvature), flag(space_only, "space_only"))


# Points in float64 ---------------------------------------------------------------------------------------------------


def _points(x, name, width=1, what="(..., d)"):
    x = _coerce.array(x, name)
    if x.ndim < 1 or x.shape[-1] < width:
        least = f", d at least {width}" if width > 1 or (x.ndim and not x.shape[-1]) else ""
        raise ValueError(f"{name} must have shape {what}{least}, got {x.shape}")
    return x


def _double(x):
    return np.ascontiguousarray(x, np.float64)


def _gaps(x, c, name=None):
    """1 - c |x|^2 of float64 rows; with a name, rows on or outside the sphere are refused."""
    x = _double(x)
    gaps = _hyperbolic.gaps(x, c)
    if name is not None and (gaps <= 0).any():
        index = np.argwhere(gaps <= 0)[0]
        _coerce.refuse_point(name, x.shape, (*index, 0)[: x.ndim - 1], np.linalg.norm(x[tuple(index)]), 0, 0, False, c)
    return gaps


def _pair(a, b, names, width=1):
    """Two arrays of points whose leading axes broadcast, in float64, and the dtype of the result."""
    a, b = _points(a, names[0], width), _points(b, names[1], width)
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"the last axes of {names[0]} and {names[1]} must match: {a.shape[-1]} vs {b.shape[-1]}")
    _coerce._broadcast((a.shape[:-1], b.shape[:-1]), f"{names[0]} {a.shape}, {names[1]} {b.shape}")
    return _double(a), _double(b), _coerce._promote((a, b))


def _square(x):
    return np.sum(x * x, -1, keepdims=True)


def _inside(x, c, dtype):
    """x in its dtype. Rounding may put a point on the sphere: it is moved back by as little."""
    result = x.astype(dtype)
    if result.size == 0:
        return result
    unit = 2 * _coerce.unit(dtype)
    for i in range(1, 9):
        outside = _gaps(result, c) <= 0
        if not outside.any():
            break
        result[outside] = (x[outside] * (1 - i * unit)).astype(dtype)
    return result


def _space(x, name, c, space_only):
    """Space-like part and time component of points of the hyperboloid, in float64; a wrong time component is refused."""
    given = _points(x, name, 1 if space_only else 2, "(..., d)" if space_only else "(..., d + 1)")
    x = _double(given)
    space = x if space_only else x[..., 1:]
    with np.errstate(over="ignore"):
        norm = np.sqrt(_square(space)[..., 0])
        time = np.hypot(c**-0.5, norm)
        bad = np.isinf(_square(space)[..., 0])
    if not space_only:
        tolerance = 2.0**-10 + 2 * _coerce.unit(given.dtype) * (given.dtype.itemsize == 2)
        bad |= np.abs(x[..., 0] - time) > tolerance * time
    if bad.any():
        index = tuple(np.argwhere(bad)[0])
        faulty = (0, 0) if np.isinf(norm[index]) or space_only else (x[(*index, 0)], time[index])
        _coerce.refuse_point(name, x.shape, index, norm[index], *faulty, True, c)
    return space, time[..., None], given.dtype if given.dtype.kind == "f" or given.dtype.itemsize == 2 else np.float64


def _with_time(space, c, dtype, space_only):
    if space_only:
        return space.astype(dtype)
    time = np.hypot(c**-0.5, np.sqrt(_square(space)))
    return np.concatenate([time, space], -1).astype(dtype)


# Maps ----------------------------------------------------------------------------------------------------------------


def _add(x, y, gap_x, gap_y, c):
    """The Moebius sum by gaps, in which nothing cancels."""
    s = x + y
    both = c * _square(s)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (gap_x * s + both * x) / (gap_x * gap_y + both)


def mobius_add(x, y, curvature=1.0):
    """Moebius sum of points of the Poincare ball: the point y, seen from the origin, moved to where x is the origin.

    Parameters
    ----------
    x, y : array_like, shapes (..., d)
        Points with ``c |x|^2 < 1``; leading axes broadcast.
    curvature : float, default 1.0
        ``c = abs(curvature)``; not 0.

    Returns
    -------
    ndarray, shape (..., d)
        In the inputs' dtype; a sum that rounding would put on the sphere is moved inside by as little.

    Raises
    ------
    TypeError, ValueError
        As in `hyperbolic_distance`.

    Notes
    -----
    O(d), in float64. ``((1 + 2c<x,y> + c|y|^2) x + (1 - c|x|^2) y) / (1 + 2c<x,y> + c^2 |x|^2 |y|^2)``, in the form
    ``(g_x s + c|s|^2 x) / (g_x g_y + c|s|^2)`` with ``s = x + y`` and ``g_x = 1 - c|x|^2``, whose terms do not cancel. From
    Ganea et al. 2018, arXiv:1805.09112.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.mobius_add([0.3, 0.4], [0.1, 0.2]).round(7)
    array([0.3699797, 0.5338742])
    """
    c = abs(_curvature(curvature))
    x, y, dtype = _pair(x, y, ("x", "y"))
    result = _add(x, y, _gaps(x, c, "x")[..., None], _gaps(y, c, "y")[..., None], c)
    # y = -x, both next to the sphere
    return _inside(np.where((x + y == 0).all(-1, keepdims=True), 0.0, result), c, dtype)


def exp_map(base, tangent, curvature=1.0):
    """The point of the Poincare ball that the geodesic from `base` along `tangent` reaches at time 1.

    Parameters
    ----------
    base : array_like, shape (..., d)
        Points with ``c |x|^2 < 1``.
    tangent : array_like, shape (..., d)
        Tangent vectors at `base`, of any length; leading axes broadcast.
    curvature : float, default 1.0
        ``c = abs(curvature)``; not 0.

    Returns
    -------
    ndarray, shape (..., d)
        In the inputs' dtype; a point that rounding would put on the sphere is moved inside by as little.

    Raises
    ------
    TypeError, ValueError
        As in `hyperbolic_distance`.

    See Also
    --------
    log_map : the inverse.

    Notes
    -----
    O(d), in float64. ``base (+) tanh(sqrt(c) l |v| / 2) v / (sqrt(c) |v|)`` with ``l = 2 / (1 - c|base|^2)`` and the Moebius
    sum (+), from Ganea et al. 2018, arXiv:1805.09112. The result lies at distance ``l |v|`` from `base`.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.exp_map([0.3, 0.2, 0.1], [0.1, -0.1, 0.05]).round(7)
    array([0.4027146, 0.1096283, 0.150123 ])
    """
    c = abs(_curvature(curvature))
    base, tangent, dtype = _pair(base, tangent, ("base", "tangent"))
    if np.isinf(tangent).any():
        raise ValueError(
            f"tangent must be finite, got infinity at {tuple(map(int, np.argwhere(np.isinf(tangent))[0]))}"
        )
    gap = _gaps(base, c, "base")[..., None]
    # squares of what is divided by the largest neither overflow nor vanish
    largest = np.abs(tangent).max(-1, keepdims=True, initial=0)
    direction = tangent / np.where(largest == 0, 1, largest)
    norm = np.linalg.norm(direction, axis=-1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        length = norm * largest
        angle = np.sqrt(c) * length / gap
        step = np.where(length == 0, 0, np.tanh(angle) / (np.sqrt(c) * norm)) * direction
        result = _add(base, step, gap, np.cosh(angle) ** -2, c)
    still = np.broadcast_to(length == 0, (*result.shape[:-1], 1))
    return _inside(np.where(still, base, result), c, dtype)


def log_map(base, target, curvature=1.0):
    """The tangent vector at `base` along which `exp_map` reaches `target`.

    Parameters
    ----------
    base, target : array_like, shapes (..., d)
        Points with ``c |x|^2 < 1``; leading axes broadcast.
    curvature : float, default 1.0
        ``c = abs(curvature)``; not 0.

    Returns
    -------
    ndarray, shape (..., d)
        In the inputs' dtype.

    Raises
    ------
    TypeError, ValueError
        As in `hyperbolic_distance`.

    Notes
    -----
    O(d), in float64. ``(1 - c|base|^2) / 2 * distance * m / |m|`` with ``m = -base (+) target``, which is the form of Ganea et
    al. 2018, arXiv:1805.09112, with the exact distance in place of an artanh of a number next to 1.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.log_map([0.2, 0.3], [0.4, 0.5]).round(7)
    array([0.2430339, 0.2307284])
    """
    c = abs(_curvature(curvature))
    base, target, dtype = _pair(base, target, ("base", "target"))
    gap = _gaps(base, c, "base")[..., None]
    _gaps(target, c, "target")
    s = target - base
    # the direction of the Moebius sum, in a scale that neither overflows nor vanishes
    size = np.max(np.abs(s), -1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        s = np.where(size == 0, 0, s / size)
        m = gap * s - c * size * _square(s) * base
        length = np.linalg.norm(m, axis=-1, keepdims=True)
        distance = np.asarray(_hyperbolic.distance(base, target, _BALL, c, True))[..., None]
        return (np.where(length == 0, 0, m / length) * (gap * distance / 2)).astype(dtype)


def project_to_ball(x, curvature=1.0, eps=None):
    """Points outside the ball, or closer than `eps` to its sphere, moved to ``(1 - eps) / sqrt(c)`` from the origin.

    Parameters
    ----------
    x : array_like, shape (..., d)
        Finite vectors.
    curvature : float, default 1.0
        ``c = abs(curvature)``; not 0.
    eps : float, optional
        Share of the radius, between 0 and 1; 1e-5 when None, or 4 units of roundoff of a 16-bit type.

    Returns
    -------
    ndarray, shape (..., d)
        In the input's dtype. Points farther inside come back as they are.

    Raises
    ------
    TypeError
        For a dtype that is not real.
    ValueError
        For an infinite component, an `eps` out of range, and a curvature that is 0 or not finite.

    Notes
    -----
    O(d). No other function does this by itself: a point outside the ball is an error there.

    Examples
    --------
    >>> import numpy as np, ruvector
    >>> ruvector.project_to_ball([[3.0, 4.0], [0.3, 0.4]], eps=0.5)
    array([[0.3, 0.4],
           [0.3, 0.4]])
    """
    c = abs(_curvature(curvature))
    given = _points(x, "x")
    dtype = given.dtype
    if eps is None:
        eps = max(1e-5, 4 * _coerce.unit(dtype)) if dtype.itemsize == 2 else 1e-5
    eps = number(eps, "eps")
    if not 0 < eps < 1:
        raise ValueError(f"eps must be between 0 and 1, got {eps}")
    x = _double(given)
    if np.isinf(x).any():
        raise ValueError(f"x must be finite, got infinity at {tuple(map(int, np.argwhere(np.isinf(x))[0]))}")
    most = (1 - eps) / np.sqrt(c)
    size = np.max(np.abs(x), -1, keepdims=True, initial=0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        # by the largest component, since |x|^2 may overflow
        direction = x / size
        length = np.linalg.norm(direction, axis=-1, keepdims=True)
        moved = np.where(size * length > most, direction / length * most, x)
    return _inside(moved, c, dtype)


# Models --------------------------------------------------------------------------------------------------------------


def poincare_to_lorentz(x, curvature=1.0, *, space_only=False):
    """Points of the Poincare ball as points of the hyperboloid.

    Parameters
    ----------
    x : array_like, shape (..., d)
        Points with ``c |x|^2 < 1``.
    curvature : float, default 1.0
        ``c = abs(curvature)``; not 0.
    space_only : bool, default False
        Leave the time component out.

    Returns
    -------
    ndarray, shape (..., d + 1), or (..., d) with `space_only`

    Raises
    ------
    TypeError, ValueError
        As in `hyperbolic_distance`.

    Notes
    -----
    O(d), in float64: ``((l - 1) / sqrt(c), l x)`` with ``l = 2 / (1 - c|x|^2)``. Distances are the same in both models.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.poincare_to_lorentz([0.3, 0.4]).round(7)
    array([1.6666667, 0.8      , 1.0666667])
    """
    c = abs(_curvature(curvature))
    space_only = flag(space_only, "space_only")
    given = _points(x, "x")
    x = _double(given)
    factor = 2 / _gaps(x, c, "x")[..., None]
    parts = [factor * x] if space_only else [(factor - 1) / np.sqrt(c), factor * x]
    return np.concatenate(parts, -1).astype(given.dtype)


def lorentz_to_poincare(x, curvature=1.0, *, space_only=False):
    """Points of the hyperboloid as points of the Poincare ball.

    Parameters
    ----------
    x : array_like, shape (..., d + 1)
        Points, time component first, as in `lorentz_distance`.
    curvature : float, default 1.0
        ``c = abs(curvature)``; not 0.
    space_only : bool, default False
        Points are given by their space-like part (..., d) alone.

    Returns
    -------
    ndarray, shape (..., d)
        A point that rounding would put on the sphere is moved inside by as little.

    Raises
    ------
    TypeError, ValueError
        As in `lorentz_distance`.

    Notes
    -----
    O(d), in float64: ``x / (1 + sqrt(c) x0)`` of the space-like part x.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.lorentz_to_poincare([5 / 3, 0.8, 16 / 15]).round(7)
    array([0.3, 0.4])
    """
    c = abs(_curvature(curvature))
    space, time, dtype = _space(x, "x", c, flag(space_only, "space_only"))
    return _inside(space / (1 + np.sqrt(c) * time), c, dtype)


def minkowski_dot(a, b):
    """Minkowski product ``-a_0 b_0 + a_1 b_1 + ... + a_d b_d`` over the last axis.

    Parameters
    ----------
    a, b : array_like, shapes (..., d + 1)
        Real vectors; leading axes broadcast.

    Returns
    -------
    NumPy scalar, or ndarray of shape (...)
        In the inputs' dtype (NumPy's promotion; integers and booleans become float64).

    Raises
    ------
    TypeError
        For a dtype that is not real.
    ValueError
        For shapes that do not fit.

    Notes
    -----
    O(d), summed in float64. For points of the hyperboloid it is ``-cosh(sqrt(c) distance) / c``; `lorentz_distance` does not
    go this way, on which near points lose all digits.

    Examples
    --------
    >>> import ruvector
    >>> float(ruvector.minkowski_dot([2.0, 1.0, 1.0], [3.0, 2.0, 1.0]))
    -3.0
    """
    a, b, dtype = _pair(a, b, ("a", "b"), 2)
    products = a * b
    return (products[..., 1:].sum(-1) - products[..., 0]).astype(dtype)[()]


# Averages ------------------------------------------------------------------------------------------------------------


def _weights(weights, shape, name="points"):
    if weights is None:
        return np.ones((*shape[:-1], 1))
    weights = _coerce.array(weights, "weights")
    if weights.ndim < 1 or weights.shape[-1] != shape[-2]:
        raise ValueError(f"weights must have shape (..., {shape[-2]}) for {name} of shape {shape}, got {weights.shape}")
    _coerce._broadcast((weights.shape[:-1], shape[:-2]), f"weights {weights.shape}, {name} {shape}")
    weights = _double(weights)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(
            f"weights must be finite and at least 0, got {weights[~(np.isfinite(weights) & (weights >= 0))][0]}"
        )
    return weights[..., None]


def _average(space, excess, weights):
    """Sum of weighted points of the unit hyperboloid (c = 1), given by space-like parts and by time - |space|: the space-like
    part of the sum, its time and its Minkowski norm. Both are at least the sum of the weights; no cancellation near the light
    cone, since time - |space| of the sum comes from what the points miss and from the angles between them."""
    norm = np.sqrt(_square(space))
    most = np.max(weights, -2, keepdims=True, initial=0)
    weights = weights / np.where(most == 0, 1, most)
    total = np.sum(weights * space, -2, keepdims=True)
    length, reach = np.sqrt(_square(total)), np.sum(weights * norm, -2, keepdims=True)
    missing = np.sum(weights * excess, -2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.where(norm == 0, 0, space / norm) - np.where(length == 0, 0, total / length)
    spread = np.where(
        length < reach / 2, reach - length, np.sum(weights * norm * _square(apart), -2, keepdims=True) / 2
    )
    gap = missing + spread
    time, minkowski = length + gap, np.sqrt(gap * (2 * length + gap))
    return total[..., 0, :], time[..., 0, :], minkowski[..., 0, :]


def gyromidpoint(points, weights=None, curvature=1.0):
    """Weighted average of points of the Poincare ball: the Moebius gyromidpoint, in closed form.

    Parameters
    ----------
    points : array_like, shape (..., n, d)
        Points with ``c |x|^2 < 1``.
    weights : array_like, shape (..., n), optional
        Finite, at least 0; all alike when None. Their common factor does not matter.
    curvature : float, default 1.0
        ``c = abs(curvature)``; not 0.

    Returns
    -------
    ndarray, shape (..., d)
        In the points' dtype. Without points, or with weights that are all 0, the origin.

    Raises
    ------
    TypeError, ValueError
        As in `hyperbolic_distance`; ValueError for weights that are negative or not finite.

    Notes
    -----
    O(n d), in float64. Half the way, along the geodesic from the origin, to ``sum(w l x) / sum(w (l - 1))`` with
    ``l = 2 / (1 - c|x|^2)``: from Ungar, in the form of Shimizu et al. 2021 [1]_. It is what the Lorentz centroid is in the
    ball; of two points of equal weight it is the midpoint of their geodesic.

    References
    ----------
    .. [1] Shimizu, Mukuta, Harada, Hyperbolic Neural Networks++, arXiv:2006.08210

    Examples
    --------
    >>> import ruvector
    >>> ruvector.gyromidpoint([[0.0, 0.8], [0.0, 0.0]]).round(12)
    array([0. , 0.5])
    """
    c = abs(_curvature(curvature))
    given = _points(points, "points", 1, "(..., n, d)")
    if given.ndim < 2:
        raise ValueError(f"points must have shape (..., n, d), got {given.shape}")
    weights = _weights(weights, given.shape)
    x = _double(given) * np.sqrt(c)
    gap = _gaps(given, c, "points")[..., None]
    space, time, minkowski = _average(2 / gap * x, gap / (1 + np.sqrt(_square(x))) ** 2, weights)
    with np.errstate(invalid="ignore"):
        result = np.where(time == 0, 0, space / (time + minkowski)) / np.sqrt(c)
    return _inside(result, c, given.dtype)


def lorentz_centroid(points, weights=None, curvature=1.0, *, space_only=False):
    """Weighted average of points of the hyperboloid: their sum, scaled back onto it.

    Parameters
    ----------
    points : array_like, shape (..., n, d + 1)
        Points, time component first, as in `lorentz_distance`.
    weights : array_like, shape (..., n), optional
        Finite, at least 0; all alike when None. Their common factor does not matter.
    curvature : float, default 1.0
        ``c = abs(curvature)``; not 0.
    space_only : bool, default False
        Points, the result too, are given by their space-like part (..., d) alone.

    Returns
    -------
    ndarray, shape (..., d + 1), or (..., d) with `space_only`
        In the points' dtype. Without points, or with weights that are all 0, the origin ``(1 / sqrt(c), 0 ... 0)``.

    Raises
    ------
    TypeError, ValueError
        As in `lorentz_distance`; ValueError for weights that are negative or not finite.

    Notes
    -----
    O(n d), in float64. ``s / (sqrt(c) sqrt(|<s, s>|))`` with ``s = sum(w x)``: the point with the least weighted sum of
    squared Lorentzian distances, from Law et al. 2019 (PMLR 97) and Chen et al. 2022, arXiv:2105.14686.

    Examples
    --------
    >>> import ruvector
    >>> ruvector.lorentz_centroid([[0.5, 0.0], [-0.5, 0.0]], space_only=True)
    array([0., 0.])
    """
    c = abs(_curvature(curvature))
    space_only = flag(space_only, "space_only")
    given = _coerce.array(points, "points")
    if given.ndim < 2:
        raise ValueError(f"points must have shape (..., n, d{'' if space_only else ' + 1'}), got {given.shape}")
    space, time, dtype = _space(given, "points", c, space_only)
    weights = _weights(weights, given.shape)
    x = space * np.sqrt(c)
    excess = 1 / (np.sqrt(c) * time + np.sqrt(_square(x)))
    total, time, minkowski = _average(x, excess, weights)
    with np.errstate(invalid="ignore"):
        result = np.where(time == 0, 0, total / minkowski) / np.sqrt(c)
    return _with_time(result, c, dtype, space_only)
