"""What docstrings of attention functions share."""

from __future__ import annotations

COMMON_OPTIONS = """mask : array_like, optional
        Broadcasts to ``(..., L, S)``. Boolean: True = attend. Floating: added to the logits; -inf hides.
    causal : bool, default False
        Query i of L sees keys ``j <= i + (S - L)``: the diagonal ends at the bottom right.
    scale : float, optional
        Factor on the products; ``1 / sqrt(head_dim)`` when None.
    dropout : float, default 0.0
        Share of weights dropped when `training`, the rest scaled by ``1 / (1 - dropout)``.
    training : bool, default False
    rng : numpy.random.Generator or seed, optional
        Needed by dropout.
    out : ndarray, optional
        Where the result goes: its shape and dtype, any strides; may overlap the inputs."""


def documented(function, common=COMMON_OPTIONS, **texts):
    """Puts what functions share into a docstring, each text in place of its name in braces."""
    # none where Python runs with -OO
    if function.__doc__:
        for name, text in {"common": common, **texts}.items():
            function.__doc__ = function.__doc__.replace(f"{{{name}}}", text)
    return function
