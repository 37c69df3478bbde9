"""Every linear layer of diffusers' HiDreamImageTransformer2DModel, without torch.

The table serves target matching, parameter counts and memory arithmetic where no torch is
installed; a test rebuilds it from diffusers on the meta device. Source: diffusers 0.42.1,
models/transformers/transformer_hidream_image.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trainer_core.config.plan import LokrAdapter

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

    @property
    def parent_class(self) -> str:
        return self.ancestors[-1]

    @property
    def parameters(self) -> int:
        return self.in_features * self.out_features + (self.out_features if self.bias else 0)


def hidream_linears(transformer_config: Mapping[str, Any]) -> tuple[LinearShape, ...]:
    """All linear layers in the order of the model's ``named_modules()``.

    ``transformer_config`` is the model's ``config.json``; keys it lacks have diffusers' defaults.
    """
    config = {**_DEFAULTS, **transformer_config}
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    patch = config["patch_size"] ** 2
    doubles, singles = config["num_layers"], config["num_single_layers"]
    top = _Room((), (_MODEL,))
    time = top.room("t_embedder", "HiDreamImageTimestepEmbed")
    pooled = top.room("p_embedder", "HiDreamImagePooledEmbed")
    linears = [
        *_embedding(time.room("timestep_embedder", "TimestepEmbedding"), _TIME_CHANNELS, dim),
        *_embedding(
            pooled.room("pooled_embedder", "TimestepEmbedding"), config["text_emb_dim"], dim
        ),
        top.room("x_embedder", "HiDreamImagePatchEmbed").linear(
            "proj", config["in_channels"] * patch, dim
        ),
    ]
    for i in range(doubles):
        linears += _block(
            top.room("double_stream_blocks", "ModuleList"), i, config, dim, twins=True
        )
    for i in range(singles):
        linears += _block(
            top.room("single_stream_blocks", "ModuleList"), i, config, dim, twins=False
        )
    final = top.room("final_layer", "HiDreamImageOutEmbed")
    out_channels = config["out_channels"] or config["in_channels"]
    linears.append(final.linear("linear", dim, patch * out_channels))
    linears.append(final.room("adaLN_modulation", "Sequential").linear("1", dim, 2 * dim))
    t5_channels, llama_channels = config["caption_channels"]
    captions = top.room("caption_projection", "ModuleList")
    for i, channels in enumerate([llama_channels] * (doubles + singles) + [t5_channels]):
        projection = captions.room(str(i), "TextProjection")
        linears.append(projection.linear("linear", channels, dim, bias=False))
    return tuple(linears)


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


def _embedding(room: _Room, channels: int, dim: int) -> Iterator[LinearShape]:
    yield room.linear("linear_1", channels, dim)
    yield room.linear("linear_2", dim, dim)


def _block(
    stack: _Room, i: int, config: Mapping[str, Any], dim: int, *, twins: bool
) -> Iterator[LinearShape]:
    """One double block (``twins``: text has its own attention and feed-forward) or single block."""
    class_name = f"HiDreamImage{'' if twins else 'Single'}TransformerBlock"
    block = stack.room(str(i), "HiDreamBlock").room("block", class_name)
    modulation = block.room("adaLN_modulation", "Sequential")
    yield modulation.linear("1", dim, (12 if twins else 6) * dim)
    attention = block.room("attn1", "HiDreamAttention")
    for suffix in ("", "_t") if twins else ("",):
        for part in ("to_q", "to_k", "to_v", "to_out"):
            yield attention.linear(part + suffix, dim, dim)
    experts = config["num_routed_experts"]
    if experts > 0:
        mixture = block.room("ff_i", _MIXTURE)
        yield from _feed_forward(mixture.room("shared_experts", _FEED_FORWARD), dim, 2 * dim)
        routed = mixture.room("experts", "ModuleList")
        for k in range(experts):
            yield from _feed_forward(routed.room(str(k), _FEED_FORWARD), dim, 4 * dim)
    else:
        yield from _feed_forward(block.room("ff_i", _FEED_FORWARD), dim, 4 * dim)
    if twins:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class LokrShape:
    """The two matrices whose Kronecker product has the shape of the linear's weight."""

    w1: tuple[int, int]
    """Rows (of out_features), columns (of in_features)."""
    w2: tuple[int, int]

    @property
    def parameters(self) -> int:
        return self.w1[0] * self.w1[1] + self.w2[0] * self.w2[1]


def lokr_shape(in_features: int, out_features: int, factor: int) -> LokrShape:
    """Shapes of full w1 and w2 for one linear layer."""
    in_small, in_large = factorization(in_features, factor)
    out_small, out_large = factorization(out_features, factor)
    return LokrShape(w1=(out_small, in_small), w2=(out_large, in_large))


def lokr_parameters(adapter: LokrAdapter, linears: Sequence[LinearShape]) -> int:
    """Trainable parameters of an adapter, its scalars included.

    Raises KeyError where the adapter names a module that the model does not have.
    """
    by_path = {linear.path: linear for linear in linears}
    scalars = len(adapter.modules) if adapter.use_scalar else 0
    return scalars + sum(
        lokr_shape(
            by_path[module.path].in_features, by_path[module.path].out_features, module.factor
        ).parameters
        for module in adapter.modules
    )
