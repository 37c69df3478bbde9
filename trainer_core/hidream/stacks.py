"""Which linears of the transformer are multiplied together, and so lie together in memory."""

from diffusers.models.transformers.transformer_hidream_image import (
    HiDreamAttention,
    HiDreamImageFeedForwardSwiGLU,
    MOEFeedForwardSwiGLU,
)
from torch import nn


def linear_stacks(transformer: nn.Module) -> list[tuple[str, ...]]:
    """Paths of linears with one input, in the order in which one wide product has their outputs.

    Queries, keys and values; w1 and w3 of a feed-forward; w1, w3 of every expert in turn, and w2 of
    every expert.
    """
    stacks: list[tuple[str, ...]] = []
    in_experts: set[str] = set()
    for path, part in transformer.named_modules():
        if isinstance(part, HiDreamAttention):
            stacks.append(_below(path, "to_q", "to_k", "to_v"))
            if not part.single:
                stacks.append(_below(path, "to_q_t", "to_k_t", "to_v_t"))
        elif isinstance(part, MOEFeedForwardSwiGLU):
            experts = _below(path, *(f"experts.{number}" for number in range(len(part.experts))))
            in_experts.update(experts)
            stacks.append(tuple(name for each in experts for name in _below(each, "w1", "w3")))
            stacks.append(tuple(f"{each}.w2" for each in experts))
        elif isinstance(part, HiDreamImageFeedForwardSwiGLU) and path not in in_experts:
            stacks.append(_below(path, "w1", "w3"))
    return stacks


def _below(path: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{path}.{name}" for name in names)
