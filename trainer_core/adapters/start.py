"""Start values that depend only on the seed and the name of a tensor."""

from collections.abc import Sequence

import torch

from trainer_core.data.permutation import draw_seed


def start_generator(seed: int, name: str) -> torch.Generator:
    """The generator of one tensor's start values, independent of all other tensors."""
    return torch.Generator().manual_seed(draw_seed(seed, name, 0, 0))


def kaiming(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """``kaiming_uniform_(a=√5)`` of a matrix, that is uniform in ±1/√columns."""
    bound: float = shape[1] ** -0.5
    return (torch.rand(*shape, generator=generator) * 2 - 1) * bound
