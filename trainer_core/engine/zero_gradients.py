"""The numbers of a step under DeepSpeed ZeRO, each rank reading only its own part of the gradient.

Between the last backward pass of a step and DeepSpeed's update, gradients are averaged over the
ranks. Under stages 1 to 3 every element then is on exactly one rank, and what is padded is 0.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed
from torch import nn

from trainer_core.engine.step_metrics import StepMeans, StepMetrics, metrics_of
from trainer_core.optim.clip import norm_pieces


def gradient_shards(
    engine: Any, parameters: Iterable[nn.Parameter], weight_shards: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """The gradient in this process: what DeepSpeed's next update reads, and may be changed.

    Args:
        engine: DeepSpeed's.
        parameters: of the model. Without stages 1 to 3 their gradients are whole on every rank.
        weight_shards: what the optimizer updates here. Where it is offloaded, DeepSpeed has copied
            the gradients there already.
    """
    if not engine.zero_optimization():
        return [parameter.grad for parameter in parameters if parameter.grad is not None]
    if engine.zero_use_cpu_optimizer():
        return [shard.grad for shard in weight_shards if shard.grad is not None]
    groups = engine.optimizer.averaged_gradients.values()
    return [part for group in groups if group is not None for part in group]


@torch.no_grad()
def clip_values(shards: Iterable[torch.Tensor], limit: float) -> None:
    """Clip each element to ±limit, in place."""
    for shard in shards:
        shard.clamp_(-limit, limit)


@torch.no_grad()
def step_metrics(
    step: int, means: StepMeans, shards: Sequence[torch.Tensor], *, are_parts: bool
) -> StepMetrics:
    """The metrics of a step, the same on every rank; one exchange between the ranks.

    Args:
        step: number of the step.
        means: over this rank's micro-batches, each counted as one of all ranks'.
        shards: ``gradient_shards``, before they are clipped.
        are_parts: whether each rank has another part of the gradient, and not all of it.

    Raises NonFiniteLossError on every rank, where a number is not finite.
    """
    pieces = norm_pieces(shards)
    device = means.flow.device
    largest = _overall(torch._foreach_norm(pieces, float("inf")), float("inf"), device)
    norm = _overall(torch._foreach_norm(pieces, 2, torch.float32), 2, device)
    own = torch.cat([means.numbers(largest), means.more_numbers(norm)])
    all_RN = own.new_empty(torch.distributed.get_world_size(), own.numel())
    torch.distributed.all_gather_into_tensor(all_RN.view(-1), own)
    flow, balance, _, _, *by_sigma = all_RN.sum(dim=0).tolist()
    largest = all_RN[:, 2].max()
    norm = torch.linalg.vector_norm(all_RN[:, 3]) if are_parts else all_RN[0, 3]
    return metrics_of(
        step,
        [flow, balance, largest.item()],
        [norm.item(), *by_sigma],
        has_balance=means.has_balance,
    )


def _overall(norms: Sequence[torch.Tensor], order: float, device: torch.device) -> torch.Tensor:
    """The norm of all pieces from the norm of each, fp64, on ``device``."""
    norms_N = torch.stack(list(norms)).to(device, torch.float64)
    norm: torch.Tensor = torch.linalg.vector_norm(norms_N, order)
    return norm
