"""Every linear layer of diffusers' HiDreamImageTransformer2DModel, without torch.

The table serves target matching, parameter counts and memory arithmetic where no torch is
installed; a test rebuilds it from diffusers on the meta device. Source: diffusers 0.42.1,
models/transformers/transformer_hidream_image.py.
"""

import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from trainer_core.config.plan import AdaptedModule, LokrAdapter, LoraAdapter

_MODEL: Final = "HiDreamImageTransformer2DModel"
_FEED_FORWARD: Final = "HiDreamImageFeedForwardSwiGLU"
_MIXTURE: Final = "MOEFeedForwardSwiGLU"
_TIME_CHANNELS: Final = 256
LATENT_CELL_PX: Final = 8
"""Pixels along one side of a cell of the VAE's latents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearShape:
    """One linear layer."""

    path: str
    ancestors: tuple[str, ...]
    """Class of each module on the way, one for each part of ``path`` but the last, the model first;
    so ``ancestors[0]`` is the model's own class."""
    in_features: int
    out_features: int
    bias: bool
    module_class: str = "Linear"
    walked: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)
    """Path and class of each module that ``named_modules()`` gives between the linear before and
    this one: those around it, and those without a linear, such as norms."""

    @property
    def parameters(self) -> int:
        return self.in_features * self.out_features + (self.out_features if self.bias else 0)


def hidream_linears(transformer_config: Mapping[str, Any]) -> tuple[LinearShape, ...]:
    """All linear layers in the order of the model's ``named_modules()``.

    ``transformer_config`` is the model's ``config.json``; keys it lacks have diffusers' defaults.
    """
    return _linears(json.dumps(dict(transformer_config), sort_keys=True))


@functools.lru_cache(maxsize=8)
def _linears(transformer_config: str) -> tuple[LinearShape, ...]:
    """Kept because it is most of the work of planning a run, and the runs of a batch ask again."""
    config = {**_DEFAULTS, **json.loads(transformer_config)}
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    patch = config["patch_size"] ** 2
    return tuple(_with_walk(_modules(config, dim, patch)))


def _modules(config: Mapping[str, Any], dim: int, patch: int) -> "Iterator[LinearShape | _Room]":
    """Linears, and modules without one (as rooms), in the model's order."""
    doubles, singles = config["num_layers"], config["num_single_layers"]
    top = _Room((), (_MODEL,))
    time = top.room("t_embedder", "HiDreamImageTimestepEmbed")
    yield time.room("time_proj", "Timesteps")
    yield from _embedding(time.room("timestep_embedder", "TimestepEmbedding"), _TIME_CHANNELS, dim)
    pooled = top.room("p_embedder", "HiDreamImagePooledEmbed")
    yield from _embedding(
        pooled.room("pooled_embedder", "TimestepEmbedding"), config["text_emb_dim"], dim
    )
    patches = top.room("x_embedder", "HiDreamImagePatchEmbed")
    yield patches.linear("proj", config["in_channels"] * patch, dim)
    yield top.room("pe_embedder", "HiDreamImageEmbedND")
    stack = top.room("double_stream_blocks", "ModuleList")
    for i in range(doubles):
        yield from _block(stack, i, config, dim, twins=True)
    stack = top.room("single_stream_blocks", "ModuleList")
    for i in range(singles):
        yield from _block(stack, i, config, dim, twins=False)
    final = top.room("final_layer", "HiDreamImageOutEmbed")
    yield final.room("norm_final", "LayerNorm")
    out_channels = config["out_channels"] or config["in_channels"]
    yield final.linear("linear", dim, patch * out_channels)
    yield from _modulation(final, dim, 2)
    t5_channels, llama_channels = config["caption_channels"]
    captions = top.room("caption_projection", "ModuleList")
    for i, channels in enumerate([llama_channels] * (doubles + singles) + [t5_channels]):
        projection = captions.room(str(i), "TextProjection")
        yield projection.linear("linear", channels, dim, bias=False)


def _with_walk(modules: "Iterable[LinearShape | _Room]") -> Iterator[LinearShape]:
    """The linears, each with what is walked before it."""
    known = {""}
    walked = [("", _MODEL)]
    for module in modules:
        names = module.path.split(".")
        classes = module.ancestors if isinstance(module, LinearShape) else module.classes
        for depth in range(1, len(classes)):
            path = ".".join(names[:depth])
            if path not in known:
                known.add(path)
                walked.append((path, classes[depth]))
        if isinstance(module, LinearShape):
            yield replace(module, walked=tuple(walked))
            walked = []


def max_area_px(transformer_config: Mapping[str, Any]) -> int:
    """The largest area in pixels whose patches the transformer takes (real HiDream: 1024²)."""
    rows, columns = transformer_config.get("max_resolution", (128, 128))
    return int(rows) * int(columns) * LATENT_CELL_PX**2


_DEFAULTS: Final[Mapping[str, Any]] = {
    "in_channels": 64,
    "out_channels": None,
    "num_layers": 16,
    "num_single_layers": 32,
    "attention_head_dim": 128,
    "num_attention_heads": 20,
    "text_emb_dim": 2048,
    "num_routed_experts": 4,
}


@dataclass(frozen=True, slots=True)
class _Room:
    """A module that holds others."""

    names: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def path(self) -> str:
        return ".".join(self.names)

    def room(self, name: str, class_name: str) -> "_Room":
        return _Room((*self.names, name), (*self.classes, class_name))

    def linear(self, name: str, in_: int, out: int, *, bias: bool = True) -> LinearShape:
        return LinearShape(
            path=".".join((*self.names, name)),
            ancestors=self.classes,
            in_features=in_,
            out_features=out,
            bias=bias,
        )


def _embedding(room: _Room, channels: int, dim: int) -> Iterator[LinearShape | _Room]:
    yield room.linear("linear_1", channels, dim)
    yield room.room("act", "SiLU")
    yield room.linear("linear_2", dim, dim)


def _modulation(room: _Room, dim: int, times: int) -> Iterator[LinearShape | _Room]:
    modulation = room.room("adaLN_modulation", "Sequential")
    yield modulation.room("0", "SiLU")
    yield modulation.linear("1", dim, times * dim)


def _block(
    stack: _Room, i: int, config: Mapping[str, Any], dim: int, *, twins: bool
) -> Iterator[LinearShape | _Room]:
    """One double block (``twins``: text has its own attention and feed-forward) or single block."""
    class_name = f"HiDreamImage{'' if twins else 'Single'}TransformerBlock"
    block = stack.room(str(i), "HiDreamBlock").room("block", class_name)
    yield from _modulation(block, dim, 12 if twins else 6)
    yield block.room("norm1_i", "LayerNorm")
    if twins:
        yield block.room("norm1_t", "LayerNorm")
    attention = block.room("attn1", "HiDreamAttention")
    for suffix in ("", "_t") if twins else ("",):
        for part in ("to_q", "to_k", "to_v", "to_out"):
            yield attention.linear(part + suffix, dim, dim)
        yield attention.room(f"q_rms_norm{suffix}", "RMSNorm")
        yield attention.room(f"k_rms_norm{suffix}", "RMSNorm")
    yield block.room("norm3_i", "LayerNorm")
    experts = config["num_routed_experts"]
    if experts > 0:
        mixture = block.room("ff_i", _MIXTURE)
        yield from _feed_forward(mixture.room("shared_experts", _FEED_FORWARD), dim, 2 * dim)
        routed = mixture.room("experts", "ModuleList")
        for k in range(experts):
            yield from _feed_forward(routed.room(str(k), _FEED_FORWARD), dim, 4 * dim)
        yield mixture.room("gate", "MoEGate")
    else:
        yield from _feed_forward(block.room("ff_i", _FEED_FORWARD), dim, 4 * dim)
    if twins:
        yield block.room("norm3_t", "LayerNorm")
        yield from _feed_forward(block.room("ff_t", _FEED_FORWARD), dim, 4 * dim)


def _feed_forward(room: _Room, dim: int, hidden: int) -> Iterator[LinearShape]:
    """SwiGLU: two thirds of the asked width, rounded up to a multiple of 256."""
    width = -(-int(2 * hidden / 3) // 256) * 256
    yield room.linear("w1", dim, width, bias=False)
    yield room.linear("w2", width, dim, bias=False)
    yield room.linear("w3", dim, width, bias=False)


def factorization(dimension: int, factor: int) -> tuple[int, int]:
    """Two factors of ``dimension``, the smaller first, the smaller as near to ``factor`` as lycoris
    takes it: (16, 160) for 2560 and 16.

    A negative factor asks for the most even split. Source: the rule of lycoris 4.1.3,
    ``lycoris.functional.general.factorization``; a test compares the two.
    """
    if factor > 0 and dimension % factor == 0:
        return min(factor, dimension // factor), max(factor, dimension // factor)
    limit = dimension if factor < 0 else factor
    small, large = 1, dimension
    for divisor in range(2, min(limit, dimension) + 1):
        if dimension % divisor == 0:
            # Past the square root the sum of the two factors grows again: no better split follows.
            if divisor + dimension // divisor > small + large:
                break
            small, large = divisor, dimension // divisor
            if small >= large:
                break
    return min(small, large), max(small, large)


def lokr_shapes(
    module: AdaptedModule, in_features: int, out_features: int
) -> dict[str, tuple[int, ...]]:
    """The trained tensors of one adapted linear, by name: ``w1`` or ``w1_a`` and ``w1_b``, ``w2``
    or ``w2_a`` and ``w2_b``, and ``scalar`` where it is learned.

    w1 has (rows of out_features, columns of in_features); the Kronecker product of w1 and w2 has
    the shape of the linear's weight. A matrix is a product of two, w = w_a · w_b, where the rank is
    below half of its longer side; w1 only with ``decompose_both``. Source: lycoris 4.1.3,
    ``lycoris.modules.lokr.LokrModule``; a test compares the two.
    """
    in_small, in_large = factorization(in_features, module.factor)
    out_small, out_large = factorization(out_features, module.factor)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, rows, columns, may_decompose in (
        ("w1", out_small, in_small, module.decompose_both),
        ("w2", out_large, in_large, True),
    ):
        if may_decompose and not module.full_matrix and module.dim < max(rows, columns) / 2:
            shapes[f"{name}_a"], shapes[f"{name}_b"] = (rows, module.dim), (module.dim, columns)
        else:
            shapes[name] = (rows, columns)
    if module.use_scalar:
        shapes["scalar"] = (1,)
    return shapes


def lycoris_loads(factor: int, in_features: int, out_features: int) -> bool:
    """Whether lycoris' loader makes the matrices of this factor's file as they are in it.

    A file does not tell its factor. The loader guesses it from the shapes, makes a module of that
    factor and fails where the two do not fit. Source: lycoris 4.1.3,
    ``LokrModule.make_module_from_state_dict``; a test compares the two.
    """
    in_split, out_split = (factorization(size, factor) for size in (in_features, out_features))
    even = [factorization(size, -1)[0] for size in (in_features, out_features)]
    if [in_split[0], out_split[0]] == even:
        return True  # the loader takes -1
    of_w1, of_w2 = (max(in_split[i], out_split[i]) for i in (0, 1))
    guess = min(of_w1, of_w2)
    for size in (of_w1, of_w2):
        if size in in_split and size in out_split:
            guess = size
            break
    return in_split == factorization(in_features, guess) and out_split == factorization(
        out_features, guess
    )


def lokr_scale(module: AdaptedModule, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """What the Kronecker product is multiplied by: 1 where both matrices are full."""
    return 1.0 if {"w1", "w2"} <= shapes.keys() else module.alpha / module.dim


def lokr_parameters(adapter: LokrAdapter, linears: Sequence[LinearShape]) -> int:
    """Trainable parameters of an adapter, its scalars included.

    Raises KeyError where the adapter names a module that the model does not have.
    """
    by_path = {linear.path: linear for linear in linears}
    total = 0
    for module in adapter.modules:
        linear = by_path[module.path]
        shapes = lokr_shapes(module, linear.in_features, linear.out_features)
        total += sum(math.prod(shape) for shape in shapes.values())
    return total


def lora_parameters(adapter: LoraAdapter, linears: Sequence[LinearShape]) -> int:
    """As ``lokr_parameters``: A is [rank, in] and B is [out, rank]."""
    by_path = {linear.path: linear for linear in linears}
    return sum(
        adapter.rank * (by_path[path].in_features + by_path[path].out_features)
        for path in adapter.modules
    )
