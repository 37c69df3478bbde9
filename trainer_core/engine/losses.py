"""The losses of one batch, with the graph that training needs."""

from typing import Final, NamedTuple

import torch

from trainer_core.config.plan import Objective
from trainer_core.engine.batch import Batch
from trainer_core.hidream.blocks import NoteExperts
from trainer_core.hidream.flow_loss import flow_loss
from trainer_core.hidream.forward import Padding
from trainer_core.hidream.network import Network
from trainer_core.hidream.plain_blocks import PlainBlocks

_TIMESTEPS: Final = 1000.0


class Losses(NamedTuple):
    """The losses of a batch."""

    flow_B: torch.Tensor
    """Loss of each sample, [B]."""
    balance: torch.Tensor | None
    """Load-balancing loss of the experts, 0-dimensional, without its weight; None: off."""


def batch_losses(
    network: Network,
    batch: Batch,
    objective: Objective,
    note_experts: NoteExperts | None = None,
) -> Losses:
    """Predict the velocity of a batch and compare it with the target.

    The target of a prior sample is the base's prediction at the same noise. A batch with prior
    samples therefore takes one more forward. The balancing loss is computed only with gradients.
    An adapter's dropout is a function of the batch's ``dropout_seed``. With plain blocks it is
    drawn from torch's global generator, which the host seeds; its state is not restored.

    Args:
        network: in ``train()`` mode if gradients are enabled.
        batch: on the device of the network.
        objective: the loss and its settings.
        note_experts: as for ``forward.predict``; not called in the forward for prior samples.

    Raises:
        ValueError: gradients are enabled in eval mode, or the batch has prior samples and the
            network has no adapter.
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
    has_dropout = network.adapter is not None and network.adapter.has_dropout
    if has_dropout and isinstance(network.blocks, PlainBlocks):
        torch.manual_seed(int(batch.dropout_seed.item()) % (1 << 64))
    prediction = network.velocity(
        *inputs, dropout_seed=batch.dropout_seed, note_experts=note_experts
    )
    flow_B = flow_loss(prediction.velocity_BCHW, target, batch.sigmas_B, objective, batch.mask_B1HW)
    return Losses(flow_B, prediction.balance)
