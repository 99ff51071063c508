"""Configurations of known models as builders: by preset, by the name of a model, and by the size of the task."""

from __future__ import annotations

import difflib
import re
from enum import Enum
from types import MappingProxyType

from ruvector._options import flag, number
from ruvector.sdk.builder import AttentionBuilder, flash, hyperbolic, linear, local_global, moe

# Heads of the models are this wide, those of Llama's family twice.
HEAD_DIM = 64
LLAMA_HEAD_DIM = 128


def _bert(dim):
    return AttentionBuilder(dim).multi_head().head_dim(HEAD_DIM).dropout(0.1)


def _gpt(dim):
    return _bert(dim).causal()


def _longformer(dim):
    return local_global(dim, 512).head_dim(HEAD_DIM).dropout(0.1)


def _performer(dim):
    return linear(dim, 256).head_dim(HEAD_DIM)


def _flash(dim):
    return flash(dim, 128).head_dim(HEAD_DIM)


def _switch(dim):
    return moe(dim, 8, 2).expert_capacity(1.25).jitter_noise(0.01).dropout(0.1)


def _hyperbolic(dim):
    return hyperbolic(dim, -1.0)


def _t5(dim):
    return AttentionBuilder(dim).t5(num_buckets=32, max_distance=128).head_dim(HEAD_DIM).dropout(0.1)


def _vit(dim):
    return AttentionBuilder(dim).multi_head().head_dim(HEAD_DIM)


def _sparse(dim):
    return AttentionBuilder(dim).sparse("strided", stride=128).head_dim(HEAD_DIM).causal()


_PRESETS = MappingProxyType(
    {
        "bert": (
            _bert,
            "Every token sees every other; heads of 64, dropout 0.1 (Devlin et al. 2018, arXiv:1810.04805)",
        ),
        "gpt": (_gpt, "Each token sees what came before; heads of 64, dropout 0.1 (Radford et al. 2019)"),
        "longformer": (
            _longformer,
            "A window of 512 and one global token; heads of 64, dropout 0.1 (Beltagy et al. 2020, arXiv:2004.05150)",
        ),
        "performer": (
            _performer,
            "256 random features in place of the softmax; heads of 64 (Choromanski et al. 2021, arXiv:2009.14794)",
        ),
        "flash_optimized": (_flash, "Every token in blocks of 128; heads of 64 (Dao 2023, arXiv:2307.08691)"),
        "switch_transformer": (
            _switch,
            "8 experts of which a token takes 2, capacity 1.25, jitter 0.01, dropout 0.1 (Fedus et al. 2021, arXiv:2101.03961, "
            "where a token takes 1)",
        ),
        "hyperbolic_tree": (
            _hyperbolic,
            "Distances in the Poincare ball of curvature -1 (Gulcehre et al. 2019, arXiv:1805.09786)",
        ),
        "t5": (
            _t5,
            "A bias for each of 32 buckets of distances up to 128, products not scaled; heads of 64, dropout 0.1 (Raffel et al. "
            "2020, arXiv:1910.10683)",
        ),
        "vit": (
            _vit,
            "Every patch sees every other; heads of 64, no dropout (Dosovitskiy et al. 2020, arXiv:2010.11929)",
        ),
        "sparse_transformer": (
            _sparse,
            "The strided pattern of stride 128, causal; heads of 64 (Child et al. 2019, arXiv:1904.10509)",
        ),
    }
)


class AttentionPreset(Enum):
    """Attention as known models have it: ``AttentionPreset.Bert.builder(768).build()``.

    The number of heads follows from the width: heads are 64 wide, so that there are 12 at 768. A width that 64 does not
    divide is an error of `build`. HyperbolicTree has one head, the heads of SwitchTransformer are its experts.

    Examples
    --------
    >>> from ruvector.sdk import AttentionPreset
    >>> for preset in AttentionPreset:
    ...     print(preset.name, preset.builder(512).build())
    Bert <Attention multi_head(dim=512, num_heads=8, dropout=0.1)>
    Gpt <Attention multi_head(dim=512, num_heads=8, causal=True, dropout=0.1)>
    Longformer <Attention longformer(dim=512, num_heads=8, window_size=512, global_tokens=1, dropout=0.1)>
    Performer <Attention performer(dim=512, num_heads=8, num_features=256, orthogonal=True)>
    FlashOptimized <Attention flash_v2(dim=512, num_heads=8, block_size=128, block_size_q=0, block_size_kv=0, softcap=0.0)>
    SwitchTransformer <Attention moe(dim=512, num_experts=8, top_k=2, capacity_factor=1.25, jitter_noise=0.01, dropout=0.1)>
    HyperbolicTree <Attention poincare(dim=512, curvature=-1.0)>
    T5 <Attention t5(dim=512, num_heads=8, num_buckets=32, max_distance=128, dropout=0.1)>
    ViT <Attention multi_head(dim=512, num_heads=8)>
    SparseTransformer <Attention sparse(dim=512, num_heads=8, pattern='strided', stride=128, bidirectional=False, causal=True)>
    """

    Bert = "bert"
    Gpt = "gpt"
    Longformer = "longformer"
    Performer = "performer"
    FlashOptimized = "flash_optimized"
    SwitchTransformer = "switch_transformer"
    HyperbolicTree = "hyperbolic_tree"
    T5 = "t5"
    ViT = "vit"
    SparseTransformer = "sparse_transformer"

    @property
    def description(self):
        """What the preset is, in a line, with its paper."""
        return _PRESETS[self.value][1]

    def builder(self, dim):
        """The preset's builder, which further options may vary.

        Parameters
        ----------
        dim : int

        Returns
        -------
        AttentionBuilder
        """
        return _PRESETS[self.value][0](dim)


# Models by name ------------------------------------------------------------------------------------------------------


def _grouped(builder, heads, kv_heads):
    """Heads of 128 where nobody tells their number, of which four share a key."""
    if heads is not None:
        return builder.num_heads(heads, kv_heads)
    dim = builder.dim if isinstance(builder.dim, int) else 0
    return builder.head_dim(LLAMA_HEAD_DIM).num_heads(None, max(1, dim // LLAMA_HEAD_DIM // 4))


def _llama(dim, heads=None, kv_heads=None, base=500000.0, scaling=None):
    return _grouped(AttentionBuilder(dim).rope(base=base, scaling=scaling), heads, kv_heads).causal()


def _mistral(dim, heads=None, kv_heads=None):
    return _grouped(AttentionBuilder(dim).sliding_window(4096), heads, kv_heads).rotate()


def _mixtral(dim):
    return moe(dim, 8, 2).causal()


def _bigbird(dim):
    return AttentionBuilder(dim).bigbird(64, 3, 2, 3).head_dim(HEAD_DIM).dropout(0.1)


def _llama3_scaling(factor):
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


_FAMILIES = MappingProxyType(
    {
        "bert": _bert,
        "roberta": _bert,
        "distilbert": _bert,
        "gpt": _gpt,
        "gpt2": _gpt,
        "distilgpt2": _gpt,
        "longformer": _longformer,
        "bigbird": _bigbird,
        "performer": _performer,
        "flash": _flash,
        "switch": _switch,
        "switch-transformer": _switch,
        "hyperbolic": _hyperbolic,
        "t5": _t5,
        "vit": _vit,
        "sparse-transformer": _sparse,
        "llama": _llama,
        "mistral": _mistral,
        "mixtral": _mixtral,
    }
)

# Width and heads of published sizes; the width of a head where it is not their quotient.
_SIZES = MappingProxyType(
    {
        "bert-tiny": ("bert", 128, 2),
        "bert-mini": ("bert", 256, 4),
        "bert-small": ("bert", 512, 8),
        "bert-medium": ("bert", 512, 8),
        "bert-base": ("bert", 768, 12),
        "bert-large": ("bert", 1024, 16),
        "roberta-base": ("roberta", 768, 12),
        "roberta-large": ("roberta", 1024, 16),
        "distilbert-base": ("distilbert", 768, 12),
        "gpt2-small": ("gpt2", 768, 12),
        "gpt2-medium": ("gpt2", 1024, 16),
        "gpt2-large": ("gpt2", 1280, 20),
        "gpt2-xl": ("gpt2", 1600, 25),
        "longformer-base": ("longformer", 768, 12),
        "longformer-large": ("longformer", 1024, 16),
        "bigbird-base": ("bigbird", 768, 12),
        "bigbird-large": ("bigbird", 1024, 16),
        "t5-small": ("t5", 512, 8),
        "t5-base": ("t5", 768, 12),
        "t5-large": ("t5", 1024, 16),
        # heads of 128, wider together than the model
        "t5-3b": ("t5", 1024, 32, 128),
        "t5-11b": ("t5", 1024, 128, 128),
        "vit-tiny": ("vit", 192, 3),
        "vit-small": ("vit", 384, 6),
        "vit-base": ("vit", 768, 12),
        "vit-large": ("vit", 1024, 16),
        "vit-huge": ("vit", 1280, 16),
    }
)
# Width, heads of queries and of keys, and what else a size has of its own.
_GROUPED = MappingProxyType(
    {
        "llama-2-7b": (_llama, 4096, 32, 32, {"base": 10000.0}),
        "llama-2-13b": (_llama, 5120, 40, 40, {"base": 10000.0}),
        "llama-2-70b": (_llama, 8192, 64, 8, {"base": 10000.0}),
        "llama-3-8b": (_llama, 4096, 32, 8, {}),
        "llama-3-70b": (_llama, 8192, 64, 8, {}),
        "llama-3.1-8b": (_llama, 4096, 32, 8, {"scaling": _llama3_scaling(8.0)}),
        "llama-3.1-70b": (_llama, 8192, 64, 8, {"scaling": _llama3_scaling(8.0)}),
        "llama-3.2-1b": (_llama, 2048, 32, 8, {"scaling": _llama3_scaling(32.0)}),
        "llama-3.2-3b": (_llama, 3072, 24, 8, {"scaling": _llama3_scaling(32.0)}),
        "mistral-7b": (_mistral, 4096, 32, 8, {}),
    }
)
# Experts of published sizes.
_EXPERTS = MappingProxyType(
    {"mixtral-8x7b": ("mixtral", 4096, 8), "mixtral-8x22b": ("mixtral", 6144, 8)}
    | {f"switch-base-{n}": ("switch", 768, n) for n in (8, 16, 32, 64, 128, 256)}
)
_KNOWN = (*_FAMILIES, *_SIZES, *_GROUPED, *_EXPERTS)
# What names of files have on top: training, casing, length, patches, resolution, versions.
_DECORATION = re.compile(
    r"-(uncased|cased|hf|chat|instruct|4096|16384|patch\d+|224|384|in21k|v0\.1|multilingual)(?=-|$)"
)


def _plain_name(name):
    """``google-bert/BERT_base-uncased`` as ``bert-base``."""
    name = re.sub(r"[\s_]+", "-", name.strip().lower().rpartition("/")[2])
    name = re.sub(r"^meta-|^google-|^allenai-", "", name)
    name = re.sub(r"^(bigbird)-roberta", r"\1", re.sub(r"^big-bird", "bigbird", name))
    name = re.sub(r"^llama(?=\d)", "llama-", re.sub(r"^gpt-2", "gpt2", name))
    return _DECORATION.sub("", name)


def from_model_name(name, dim=None):
    """The builder of a model's attention.

    Parameters
    ----------
    name : str
        A family (``"bert"``, ``"gpt2"``, ``"llama"``) or a published size (``"bert-base"``, ``"gpt2-xl"``,
        ``"llama-3-8b"``), in any case; an owner before a slash and words such as "uncased" are passed over.
    dim : int, optional
        Width of the queries: needed with a family; the model's own when None.

    Returns
    -------
    AttentionBuilder
        Of a size, with the model's number of heads, which `build` refuses where it does not divide another `dim`.

    Raises
    ------
    TypeError
        If the name is no string.
    ValueError
        For a name that is not known, or a family without `dim`.

    Notes
    -----
    Bidirectional families (bert, roberta, distilbert, vit) are `multi_head`, gpt2 the same with causality; longformer has a
    window of 512, bigbird blocks of 64 with 3 in the window, 2 global and 3 random ones; t5 has its 32 buckets of distances.
    llama has rotary positions and, but for the sizes that do not, fewer heads for keys and values; mistral a window of 4096
    besides. switch and mixtral send each query to 2 experts, as `moe`, whose experts are heads: in those models the experts are
    feed-forward layers.

    Where keys have fewer heads they are narrower than the queries: `AttentionBuilder.init` or `weights` project to them. So they
    do to the heads of t5-3b and t5-11b, which are wider together than the model and cannot be built without.

    Examples
    --------
    >>> from ruvector import sdk
    >>> sdk.from_model_name("GPT2", 768).build()
    <Attention multi_head(dim=768, num_heads=12, causal=True, dropout=0.1)>
    >>> sdk.from_model_name("bert-large-uncased").build()
    <Attention multi_head(dim=1024, num_heads=16, dropout=0.1)>
    >>> sdk.from_model_name("mistral-7b").build()
    <Attention sliding_window(dim=4096, num_heads=32, num_kv_heads=8, window_size=4096, rotate=(base=10000.0))>
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    plain = _plain_name(name)
    if plain in _SIZES:
        family, width, heads, *head_dim = _SIZES[plain]
        return _FAMILIES[family](width if dim is None else dim).head_dim(*(head_dim or [None])).num_heads(heads)
    if plain in _GROUPED:
        make, width, heads, kv_heads, options = _GROUPED[plain]
        return make(width if dim is None else dim, heads, kv_heads, **options)
    if plain in _EXPERTS:
        family, width, experts = _EXPERTS[plain]
        return _FAMILIES[family](width if dim is None else dim).moe(num_experts=experts, top_k=2)
    if plain not in _FAMILIES:
        close = difflib.get_close_matches(plain, _KNOWN, n=1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Unknown model: {name!r}. Available: {', '.join(_KNOWN)}{hint}")
    if dim is None:
        raise ValueError(f"dim must be given with {name!r}, a family of models of several widths")
    return _FAMILIES[plain](dim)


# By the size of the task ---------------------------------------------------------------------------------------------


def _size(value, name):
    value = number(value, name, whole=True)
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def for_sequences(dim, max_len):
    """A builder for sequences up to a length: Bert to 512, Longformer to 4096, Performer beyond.

    Parameters
    ----------
    dim : int
    max_len : int
        At least 1.

    Returns
    -------
    AttentionBuilder

    Raises
    ------
    TypeError, ValueError
        For a length that is no positive integer.

    Examples
    --------
    >>> from ruvector import sdk
    >>> [sdk.for_sequences(512, n).name for n in (512, 4096, 8192)]
    ['multi_head', 'longformer', 'performer']
    """
    max_len = _size(max_len, "max_len")
    if max_len <= 512:
        return _bert(dim)
    return _longformer(dim) if max_len <= 4096 else _performer(dim)


def for_graphs(dim, hierarchical):
    """A builder for the nodes of graphs: HyperbolicTree for hierarchies, else heads of 64 over every node.

    Parameters
    ----------
    dim : int
    hierarchical : bool

    Returns
    -------
    AttentionBuilder
        Points of the Poincare ball where hierarchical. Attention along edges is ``AttentionBuilder(dim).gat(...)``.

    Raises
    ------
    TypeError
        If hierarchical is not True or False.

    Examples
    --------
    >>> from ruvector import sdk
    >>> sdk.for_graphs(256, True).name, sdk.for_graphs(256, False).name
    ('poincare', 'multi_head')
    """
    return _hyperbolic(dim) if flag(hierarchical, "hierarchical") else _vit(dim)


def for_large_scale(dim):
    """A builder for much data: FlashOptimized.

    Parameters
    ----------
    dim : int

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> from ruvector import sdk
    >>> sdk.for_large_scale(1024).name
    'flash_v2'
    """
    return _flash(dim)


def for_vision(dim, patch_size, image_size=224):
    """A builder for images in patches: ViT.

    Parameters
    ----------
    dim : int
    patch_size : int
        Pixels of a patch's side; divides image_size.
    image_size : int, default 224
        Pixels of an image's side.

    Returns
    -------
    AttentionBuilder

    Raises
    ------
    TypeError, ValueError
        For sizes that are no positive integers, or patches that do not fill an image.

    Examples
    --------
    >>> from ruvector import sdk
    >>> sdk.for_vision(768, 16).build()
    <Attention multi_head(dim=768, num_heads=12)>
    """
    patch_size, image_size = _size(patch_size, "patch_size"), _size(image_size, "image_size")
    if image_size % patch_size:
        raise ValueError(f"patch_size {patch_size} must divide image_size {image_size}")
    return _vit(dim)


def for_generation(dim, context_len):
    """A builder for decoders: Gpt up to 2048 tokens, beyond them FlashOptimized with causality.

    Parameters
    ----------
    dim : int
    context_len : int
        At least 1.

    Returns
    -------
    AttentionBuilder

    Raises
    ------
    TypeError, ValueError
        For a length that is no positive integer.

    Examples
    --------
    >>> from ruvector import sdk
    >>> [sdk.for_generation(768, n).name for n in (2048, 2049)]
    ['multi_head', 'flash_v2']
    """
    return _gpt(dim) if _size(context_len, "context_len") <= 2048 else _flash(dim).causal()


def for_moe(dim, num_experts, top_k):
    """A builder of experts: SwitchTransformer with a routing of its own.

    Parameters
    ----------
    dim : int
    num_experts : int
        Divides dim.
    top_k : int
        From 1 to num_experts.

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> from ruvector import sdk
    >>> sdk.for_moe(512, 16, 2).build().params["num_experts"]
    16
    """
    return _switch(dim).moe(num_experts=num_experts, top_k=top_k)
