"""The losses of one batch, with the graph that training needs."""

from typing import NamedTuple

import torch
from diffusers import HiDreamImageTransformer2DModel

from trainer_core.adapters.attach import Adapter
from trainer_core.config.plan import Objective
from trainer_core.engine.batch import Batch
from trainer_core.hidream.objective import flow_loss, predict_velocity
from trainer_core.precision.compute import Compute

_TIMESTEPS = 1000.0


class Losses(NamedTuple):
    """What a batch costs."""

    flow_B: torch.Tensor
    """Loss of each sample, [B]."""
    balance: torch.Tensor | None
    """Load balancing of the experts, 0-dimensional, not weighted; None where it is off."""


def batch_losses(
    transformer: HiDreamImageTransformer2DModel,
    adapter: Adapter | None,
    batch: Batch,
    objective: Objective,
    compute: Compute,
) -> Losses:
    """Run the batch through the model.

    ``adapter``: what is trained beside the base; None where every weight is trained.
    """
    with compute.context():
        prediction = predict_velocity(
            transformer, batch.noisy_BCHW, _TIMESTEPS * batch.sigmas_B, batch.text
        )
    return Losses(flow_loss(prediction, batch.target_BCHW), None)
