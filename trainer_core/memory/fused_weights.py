"""Bytes of a frozen base on a CUDA card, by the parts that may leave it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from trainer_core.config.plan.matmul import is_8bit
from trainer_core.config.plan.shapes import LinearShape
from trainer_core.memory.fused_model import FusedModel
from trainer_core.memory.weights import FP32_BYTES

RING_BLOCKS: Final = 2
"""Buffers for blocks that are held by the host: one is computed while the next one is copied."""
STAGED_LINEARS: Final = 2
"""The same for linears of the conditioning."""
_CAPTIONS: Final = "caption_projection."
_MODULATION: Final = "adaLN_modulation."
_TIME_AND_POOLED: Final = ("t_embedder.", "p_embedder.")


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedWeights:
    """Bytes of the base's weights with their scales."""

    blocks: tuple[int, ...]
    """Of each block: attention and feed-forward."""
    conditioning: int
    """Modulation and caption projections that may be held by the host: nothing is trained in them
    or before them, so the backward pass does not need their weights."""
    transposed: int
    """A second copy of the blocks' 8-bit weights, for the gradients of their inputs; 0 without."""
    staged: int
    """What the card holds of ``conditioning`` while it is streamed."""
    rest: int
    """Embedders, norms, gates, the last layer, and conditioning that has to stay."""

    def on_card(self, *, streamed: bool, offloaded: frozenset[int]) -> int:
        """Bytes on the card.

        Args:
            streamed: whether the conditioning is held by the host.
            offloaded: the blocks that are held by the host.
        """
        away = [self.blocks[number] for number in offloaded]
        ring = min(len(away), RING_BLOCKS) * max(away, default=0)
        conditioning = self.staged if streamed else self.conditioning
        return sum(self.blocks) - sum(away) + ring + conditioning + self.rest


def fused_weights(model: FusedModel) -> FusedWeights:
    """The weights of the base, by part."""
    blocks = [0] * model.blocks
    streamed = dict.fromkeys(streamed_linears(model), 0)
    rest, transposed = _norm_bytes(model), 0
    for path, linear in model.linears.items():
        size = sum(_held(model, linear))
        if path in streamed:
            streamed[path] = size
        elif (number := block_weights_of(model, path)) is not None:
            blocks[number] += size
            if is_8bit(model.matmul):
                transposed += linear.in_features * linear.out_features
        else:
            rest += size
    return FusedWeights(
        blocks=tuple(blocks),
        conditioning=sum(streamed.values()),
        transposed=transposed,
        staged=STAGED_LINEARS * max(streamed.values(), default=0),
        rest=rest,
    )


def streamed_linears(model: FusedModel) -> tuple[str, ...]:
    """Paths of the conditioning that may be held by the host, in the order of their use.

    The T5 and the last Llama caption go into all blocks. Each block has a caption of its own and a
    modulation.
    """
    # A gradient goes through the modulation where the embedders before it are trained.
    stays = any(adapted.startswith(_TIME_AND_POOLED) for adapted in model.inner)
    return tuple(
        path
        for path in _conditioning(model)
        if path not in model.inner and not (stays and _MODULATION in path)
    )


def block_weights_of(model: FusedModel, path: str) -> int | None:
    """Number of the block whose attention or feed-forward a linear belongs to; None: of none."""
    return None if _MODULATION in path else model.block_of(path)


def base_bytes(model: FusedModel) -> tuple[int, int]:
    """Bytes of the whole base: (weights, scales of 8-bit weights)."""
    held = [_held(model, linear) for linear in model.linears.values()]
    return _norm_bytes(model) + sum(weights for weights, _ in held), sum(s for _, s in held)


def _conditioning(model: FusedModel) -> Iterator[str]:
    """In the order of use. The last layer's modulation is small and is not part of it."""
    last = model.blocks - 1
    yield f"{_CAPTIONS}{model.blocks}.linear"
    yield f"{_CAPTIONS}{last}.linear"
    for number in range(model.blocks):
        if number != last:
            yield f"{_CAPTIONS}{number}.linear"
        yield f"{model.block_path(number)}{_MODULATION}1"


def _held(model: FusedModel, linear: LinearShape) -> tuple[int, int]:
    """Bytes of (weight and bias, scales)."""
    number_bytes = model.number_bytes
    weights, rows = linear.in_features * linear.out_features, linear.out_features
    bias = rows * number_bytes if linear.bias else 0
    is_inside = model.block_of(linear.path) is not None or linear.path.startswith(_CAPTIONS)
    if is_8bit(model.matmul) and is_inside:
        return weights + bias, rows * FP32_BYTES
    return weights * number_bytes + bias, 0


def _norm_bytes(model: FusedModel) -> int:
    """The norms of queries and keys, and the gates."""
    norms = (4 * model.doubles + 2 * model.singles) * model.width
    return (norms + model.blocks * model.experts * model.width) * model.number_bytes
