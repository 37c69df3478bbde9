"""The losses of one batch, with the graph that training needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from diffusers import HiDreamImageTransformer2DModel

from trainer_core.adapters.attach import Adapter
from trainer_core.config.plan import Objective
from trainer_core.engine.batch import Batch
from trainer_core.hidream.balance import Terms, balance_terms
from trainer_core.hidream.flow_loss import flow_loss
from trainer_core.hidream.objective import predict_velocity
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

    Samples that the adapter is to leave alone are compared with what the base predicts for them at
    the same noise; that costs one forward more, where the batch has any. The balancing loss is
    computed only where gradients are, so never to measure. What an adapter drops out is seeded by
    the batch; torch's global generator is left there.

    Args:
        transformer: in ``train()`` mode.
        adapter: what is trained beside the base; None where every weight is trained.
        batch: on the device of the model.
        objective: what is compared, and how.
        compute: the types to multiply in.

    Raises:
        ValueError: gradients are wanted in eval mode, or the batch asks for the base and there is
            none beside what is trained.
    """
    if torch.is_grad_enabled() and not transformer.training:
        # diffusers would let no gradient through the routed experts, and say nothing.
        raise ValueError("the transformer has to be in train() mode to be trained")
    target = batch.target_BCHW
    if batch.is_prior_B is not None:
        if adapter is None:
            raise ValueError("prior preservation needs an adapter: full rank has no base left")
        with torch.no_grad(), adapter.disabled():
            base = _predicted(transformer, batch, objective, compute)
        is_prior_B111 = batch.is_prior_B.view(-1, 1, 1, 1)
        target = torch.where(is_prior_B111, base.to(target.dtype), target)
    if adapter is not None and adapter.has_dropout:
        torch.manual_seed(batch.dropout_seed)
    with _balanced(transformer, objective) as terms:
        prediction = _predicted(transformer, batch, objective, compute)
    flow_B = flow_loss(prediction, target, batch.sigmas_B, objective, batch.mask_B1HW)
    return Losses(flow_B, None if terms is None else terms.total())


def _predicted(
    transformer: HiDreamImageTransformer2DModel,
    batch: Batch,
    objective: Objective,
    compute: Compute,
) -> torch.Tensor:
    with compute.context():
        return predict_velocity(
            transformer,
            batch.noisy_BCHW,
            _TIMESTEPS * batch.sigmas_B,
            batch.text,
            "stock" if objective.pad_compat else "exact",
        )


@contextmanager
def _balanced(
    transformer: HiDreamImageTransformer2DModel, objective: Objective
) -> Iterator[Terms | None]:
    if objective.balance_weight > 0 and torch.is_grad_enabled():
        with balance_terms(transformer) as terms:
            yield terms
    else:
        yield None
