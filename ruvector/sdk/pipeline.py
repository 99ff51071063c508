"""Sub-layers one behind the other: attention, norms, residuals and feed-forward layers run as one."""

from __future__ import annotations

import numpy as np

from ruvector import _coerce
from ruvector._options import flag
from ruvector._registry import CompiledAttention, ComposedAttention
from ruvector.sdk.attention import Attention
from ruvector.sdk.stages import BatchNorm, Dropout, FeedForward, Norm, NormType, norm_stage


class _Attend:
    """Attention of the state over the keys and values of the run, or over itself."""

    def __init__(self, attention):
        self.attention = attention

    def __repr__(self):
        text = repr(self.attention)[1:-1]
        return text[:1].lower() + text[1:]


class _Residual:
    """Adds the input of its sub-layer."""

    def __repr__(self):
        return "residual"


class _Custom:
    """A function of the state."""

    def __init__(self, function):
        self.function = function

    def __call__(self, x, training, rng):
        result = self.function(x)
        if not isinstance(result, np.ndarray) and isinstance(result, (list, tuple)):
            result = np.asarray(result, x.dtype)
        result = _coerce.array(result, "the result of a custom stage")
        if result.ndim < 1:
            raise ValueError(f"a custom stage must return vectors, got shape {result.shape}")
        return result

    def __repr__(self):
        return f"custom {getattr(self.function, '__name__', type(self.function).__name__)}"


def _sources(stages):
    """For each residual, the stage whose input it adds."""
    sources, start = {}, 0
    for i, stage in enumerate(stages):
        if not isinstance(stage, _Residual):
            continue
        if start == i:
            raise ValueError("add_residual needs a sub-layer: there is no stage since the last residual")
        sources[i] = start
        opened = isinstance(stages[start], (Norm, BatchNorm))
        start = i + 1
        # a norm behind the residual belongs to the sub-layer that it closes, unless that has had its norm in front
        if not opened and start < len(stages) and isinstance(stages[start], (Norm, BatchNorm)):
            start += 1
    return sources


class AttentionPipeline:
    """Stages that run one behind the other, each on what the one before has left.

    A method for each kind of stage returns another pipeline and leaves this one as it is; only the running statistics of a
    BatchNorm change, in training, and every pipeline has its own.

    Attributes
    ----------
    stages : tuple

    Notes
    -----
    `add_residual` adds the input of its sub-layer: what came in at the start or, later, what the last residual left. A norm that
    follows a residual directly still belongs to the sub-layer before it (post-norm: the next residual adds what the norm gave),
    unless that sub-layer began with a norm of its own (pre-norm: the next residual adds what the last residual gave, and the norm
    is the next sub-layer's). The representation names the stage whose input is added.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvector import sdk
    >>> attention = sdk.multi_head(8, 2).build()
    >>> pipeline = sdk.AttentionPipeline().add_attention(attention).add_dropout(0.1).add_residual().add_norm("LayerNorm")
    >>> pipeline
    AttentionPipeline(
      0: attention multi_head(dim=8, num_heads=2)
      1: dropout(0.1)
      2: residual, adds the input of 0
      3: LayerNorm(eps=1e-05)
    )
    >>> x = np.random.default_rng(0).standard_normal((5, 8))
    >>> pipeline.run(x).shape, pipeline.run(x[0], x, x).shape
    ((5, 8), (8,))
    """

    __slots__ = ("stages", "_sources")

    def __init__(self, stages=()):
        stages = tuple(stage.copy() if isinstance(stage, BatchNorm) else stage for stage in stages)
        object.__setattr__(self, "stages", stages)
        object.__setattr__(self, "_sources", _sources(stages))

    def __setattr__(self, name, value):
        raise AttributeError("an AttentionPipeline cannot be changed; its methods return others")

    def __reduce__(self):
        return AttentionPipeline, (self.stages,)

    def _with(self, stage):
        return AttentionPipeline((*self.stages, stage))

    def add_attention(self, attention):
        """A stage of attention: over the keys and values of the run, which every such stage sees, or over its own input.

        Parameters
        ----------
        attention : Attention
            Built; what `ruvector.get_attention` returns too.

        Returns
        -------
        AttentionPipeline

        Raises
        ------
        TypeError
            For anything else, a builder included.
        """
        if not isinstance(attention, (Attention, CompiledAttention, ComposedAttention)):
            raise TypeError(f"attention must be built (builder.build()), got {attention!r}")
        return self._with(_Attend(attention))

    def add_norm(self, norm, *, weight=None, bias=None, eps=None, momentum=None, running_mean=None, running_var=None):
        """A normalisation.

        Parameters
        ----------
        norm : NormType or str
            LayerNorm and RMSNorm work on each vector, BatchNorm on each column over all vectors: in training with the batch's
            own mean and variance, which move the running ones, at inference with the running ones, at first 0 and 1. BatchNorm
            is computed in float64, whatever the dtype of its input, which is that of its result.
        weight : array_like, shape (d,), optional
        bias : array_like, shape (d,), optional
            Not with RMSNorm.
        eps : float, optional
            Added to variances; 1e-5, with RMSNorm 1e-6.
        momentum : float, optional
            BatchNorm: the part of a batch in the running statistics, more than 0 and at most 1; 0.1.
        running_mean, running_var : array_like, shape (d,), optional
            BatchNorm: statistics to begin with.

        Returns
        -------
        AttentionPipeline

        Raises
        ------
        TypeError, ValueError
            For what is no norm, values out of range, and options of another norm.
        """
        return self._with(norm_stage(norm, weight, bias, eps, momentum, running_mean, running_var))

    def add_dropout(self, p):
        """Dropout: in training, a share p of the numbers, at least 0 and less than 1, becomes 0, the rest is scaled by
        ``1 / (1 - p)``."""
        return self._with(Dropout(p))

    def add_residual(self):
        """Adds the input of the sub-layer since the last residual; which that is, the class explains.

        Returns
        -------
        AttentionPipeline

        Raises
        ------
        ValueError
            If there is no stage since the last residual.
        """
        return self._with(_Residual())

    def add_feed_forward(self, feed_forward):
        """A feed-forward layer.

        Parameters
        ----------
        feed_forward : FeedForward

        Returns
        -------
        AttentionPipeline

        Raises
        ------
        TypeError
            For anything else.
        """
        if not isinstance(feed_forward, FeedForward):
            raise TypeError(f"feed_forward must be a FeedForward, got {feed_forward!r}")
        return self._with(feed_forward)

    def add_custom(self, function):
        """A function of the state: one vector (d,) or vectors (..., L, d), as the run has them.

        Parameters
        ----------
        function : callable
            Returns an array, or a list for one vector.

        Returns
        -------
        AttentionPipeline

        Raises
        ------
        TypeError
            If it is not callable.
        """
        if not callable(function):
            raise TypeError(f"function must be callable, got {function!r}")
        return self._with(_Custom(function))

    def run(self, query, keys=None, values=None, *, mask=None, training=False, rng=None):
        """Runs the stages.

        Parameters
        ----------
        query : array_like, shape (d,) or (..., L, d)
            What the first stage gets.
        keys : array_like, shape (S, d) or (..., S, d), optional
            What attention stages attend to, lists of vectors too. None: each attends to its own input, whose vectors are then
            queries, keys and values (self-attention, with a norm in front normalised like the queries).
        values : array_like, shape (S, dv) or (..., S, dv), optional
            The keys when None.
        mask : array_like, optional
            Of every attention stage.
        training : bool, default False
            Dropout, jitter and the statistics of batches work only when True.
        rng : numpy.random.Generator or seed, optional
            Needed by dropout and jitter in training; the stages draw from it one after the other.

        Returns
        -------
        ndarray, shape (d',) or (..., L, d')

        Raises
        ------
        TypeError, ValueError
            As in the stages; ValueError for keys or a mask without a stage of attention, values without keys, one vector that
            shall attend to itself, and residuals whose shapes differ.

        Examples
        --------
        >>> from ruvector import sdk
        >>> pipeline = sdk.AttentionPipeline().add_attention(sdk.scaled_dot(2).build()).add_custom(lambda x: -x)
        >>> pipeline.run([1.0, 0.0], [[1.0, 0.0], [1.0, 0.0]], [[2.0], [4.0]])
        array([-3.])
        """
        training = flag(training, "training")
        x = _coerce.array(query, "query")
        if x.ndim < 1:
            raise ValueError(f"query must have shape (d,) or (..., L, d), got {x.shape}")
        if keys is None and values is not None:
            raise ValueError("values go with keys; got values alone")
        if keys is not None:
            keys = _coerce.array(keys, "keys")
            values = keys if values is None else _coerce.array(values, "values")
        attends = any(isinstance(stage, _Attend) for stage in self.stages)
        for name, given in (("keys", keys), ("mask", mask)):
            if given is not None and not attends:
                raise ValueError(f"{name} need a stage of attention, and this pipeline has none")
        rng = None if rng is None or not training else _coerce.generator(rng)
        wanted, inputs = set(self._sources.values()), {}
        for i, stage in enumerate(self.stages):
            if i in wanted:
                inputs[i] = x
            if isinstance(stage, _Attend):
                x = _attended(stage.attention, x, keys, values, mask, training, rng)
            elif isinstance(stage, _Residual):
                x = _added(x, inputs[self._sources[i]], i)
            else:
                x = stage(x, training, rng)
        # a pipeline that does nothing still returns an array of its own
        return x.copy() if x is query else x

    def __repr__(self):
        lines = []
        for i, stage in enumerate(self.stages):
            source = f", adds the input of {self._sources[i]}" if i in self._sources else ""
            lines.append(f"  {i}: {stage!r}{source}\n")
        return f"AttentionPipeline({chr(10) if lines else ''}{''.join(lines)})"


def _attended(attention, x, keys, values, mask, training, rng):
    if keys is None:
        if x.ndim < 2:
            raise ValueError(
                f"one vector cannot attend to itself; pass keys, or vectors (..., L, d), got shape {x.shape}"
            )
        keys = values = x
    return attention(x, keys, values, mask=mask, training=training, rng=rng)


def _added(x, source, stage):
    if x.shape != source.shape:
        raise ValueError(f"residual at stage {stage} adds an input of shape {source.shape} to {x.shape}")
    with np.errstate(all="ignore"):
        return (x + source).astype(_coerce._promote((x, source)), copy=False)


def transformer_block(attention, dropout=0.1, *, feed_forward=None, norm=NormType.LayerNorm):
    """A block with its norms behind the residuals: attention, dropout, residual, norm; the same with a feed-forward layer.

    Parameters
    ----------
    attention : Attention
    dropout : float, default 0.1
        Behind attention and the feed-forward layer.
    feed_forward : FeedForward, optional
        None: the sub-layer of attention alone.
    norm : NormType, default LayerNorm

    Returns
    -------
    AttentionPipeline

    Raises
    ------
    TypeError, ValueError
        As in the methods of AttentionPipeline.

    Notes
    -----
    ``y = norm(x + attention(x))``, then ``norm(y + feed_forward(y))``. From Vaswani et al. 2017, arXiv:1706.03762.

    Examples
    --------
    >>> from ruvector import sdk
    >>> sdk.transformer_block(sdk.multi_head(512, 8).build(), 0.1)
    AttentionPipeline(
      0: attention multi_head(dim=512, num_heads=8)
      1: dropout(0.1)
      2: residual, adds the input of 0
      3: LayerNorm(eps=1e-05)
    )
    """
    block = AttentionPipeline().add_attention(attention).add_dropout(dropout).add_residual().add_norm(norm)
    if feed_forward is not None:
        block = block.add_feed_forward(feed_forward).add_dropout(dropout).add_residual().add_norm(norm)
    return block


def prenorm_transformer_block(attention, dropout=0.1, *, feed_forward=None, norm=NormType.LayerNorm):
    """A block with its norms in front: norm, attention, dropout, residual; the same with a feed-forward layer.

    Parameters
    ----------
    attention : Attention
    dropout : float, default 0.1
        Behind attention and the feed-forward layer.
    feed_forward : FeedForward, optional
        None: the sub-layer of attention alone.
    norm : NormType, default LayerNorm

    Returns
    -------
    AttentionPipeline

    Raises
    ------
    TypeError, ValueError
        As in the methods of AttentionPipeline.

    Notes
    -----
    ``y = x + attention(norm(x))``, then ``y + feed_forward(norm(y))``. From Xiong et al. 2020, On Layer Normalization in the
    Transformer Architecture, arXiv:2002.04745.

    Examples
    --------
    >>> from ruvector import sdk
    >>> feed_forward = sdk.FeedForward.init(512, activation="swiglu")
    >>> sdk.prenorm_transformer_block(sdk.multi_head(512, 8).build(), 0.0, feed_forward=feed_forward, norm=sdk.NormType.RMSNorm)
    AttentionPipeline(
      0: RMSNorm(eps=1e-06)
      1: attention multi_head(dim=512, num_heads=8)
      2: dropout(0)
      3: residual, adds the input of 0
      4: RMSNorm(eps=1e-06)
      5: feed_forward(512 -> 1365 -> 512, swiglu)
      6: dropout(0)
      7: residual, adds the input of 4
    )
    """
    block = AttentionPipeline().add_norm(norm).add_attention(attention).add_dropout(dropout).add_residual()
    if feed_forward is not None:
        block = block.add_norm(norm).add_feed_forward(feed_forward).add_dropout(dropout).add_residual()
    return block
