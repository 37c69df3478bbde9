"""The losses of one batch, with the graph that training needs."""

from typing import Final, NamedTuple

import torch

from trainer_core.config.plan import Objective
from trainer_core.engine.batch import Batch
from trainer_core.hidream.flow_loss import flow_loss
from trainer_core.hidream.forward import Padding
from trainer_core.hidream.network import Network

_TIMESTEPS: Final = 1000.0


class Losses(NamedTuple):
    """What a batch costs."""

    flow_B: torch.Tensor
    """Loss of each sample, [B]."""
    balance: torch.Tensor | None
    """Load balancing of the experts, 0-dimensional, not weighted; None where it is off."""


def batch_losses(network: Network, batch: Batch, objective: Objective) -> Losses:
    """Run the batch through the network and compare its velocity with the target.

    Samples that the adapter is to leave alone are compared with what the base predicts for them at
    the same noise. That costs one more forward, where the batch has any. The balancing loss is
    computed only where gradients are. The batch seeds what an adapter drops out, in torch's global
    generator, which is left there.

    Args:
        network: in ``train()`` mode to be trained.
        batch: on the device of the network.
        objective: what is compared, and how.

    Raises:
        ValueError: gradients are wanted in eval mode, or the batch asks for the base and there is
            none beside what is trained.
    """
    if torch.is_grad_enabled() and not network.transformer.training:
        # diffusers would let no gradient through the routed experts, without an error.
        raise ValueError("the transformer has to be in train() mode to be trained")
    padding: Padding = "stock" if objective.pad_compat else "exact"
    inputs = batch.noisy_BCHW, _TIMESTEPS * batch.sigmas_B, batch.text, padding
    target = batch.target_BCHW
    if batch.is_prior_B is not None:
        base = network.base_velocity(*inputs)
        is_prior_B111 = batch.is_prior_B.view(-1, 1, 1, 1)
        target = torch.where(is_prior_B111, base.to(target.dtype), target)
    if network.adapter is not None and network.adapter.has_dropout:
        torch.manual_seed(batch.dropout_seed)
    prediction = network.velocity(*inputs)
    flow_B = flow_loss(prediction.velocity_BCHW, target, batch.sigmas_B, objective, batch.mask_B1HW)
    return Losses(flow_B, prediction.balance)
