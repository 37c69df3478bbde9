"""The loss of a predicted velocity, as the plan's objective defines it.

Letters: B samples, C channels, H × W latent cells.
"""

from typing import Final

import torch

from trainer_core.config.plan import Objective

_CHW: Final = (1, 2, 3)


def flow_loss(
    prediction_BCHW: torch.Tensor,
    target_BCHW: torch.Tensor,
    sigmas_B: torch.Tensor,
    objective: Objective,
    mask_B1HW: torch.Tensor | None = None,
) -> torch.Tensor:
    """Loss of each sample, [B], in fp32, or in fp64 for an fp64 prediction.

    Let e be the difference and c the threshold at the sample's sigma. The loss of an element is

    - ``l2``: e²
    - ``huber``: 2c · (√(e² + c²) - c), which is e² for small e and 2c · |e| for large
    - ``smooth_l1``: 2 · (√(e² + c²) - c), which is e² / c for small e and 2 · |e| for large

    The loss of a sample is the mean of its elements, weighted by the mask. A mask over half of a
    sample therefore does not halve its loss. Source: the pseudo-Huber losses of kohya's sd-scripts
    (library/train_util.py, ``conditional_loss``), whose names SimpleTuner uses.

    Args:
        prediction_BCHW: the predicted velocity.
        target_BCHW: the velocity to predict.
        sigmas_B: share of noise in each sample.
        objective: ``loss``, ``huber_c`` and ``huber_schedule`` are used.
        mask_B1HW: weight of each cell, 0 to 1, above 0 somewhere in each sample; None: 1
            everywhere.
    """
    wide = torch.promote_types(prediction_BCHW.dtype, torch.float32)
    error = prediction_BCHW.to(wide) - target_BCHW.to(wide)
    if objective.loss == "l2":
        cost_BCHW = error.square()
    else:
        c = huber_threshold(sigmas_B.to(wide), objective).view(-1, 1, 1, 1)
        # √(e² + c²) - c, rewritten so that small errors do not cancel in fp32.
        excess = error.square() / ((error.square() + c.square()).sqrt() + c)
        cost_BCHW = 2 * excess * c if objective.loss == "huber" else 2 * excess
    if mask_B1HW is None:
        return cost_BCHW.mean(dim=_CHW)
    weight = mask_B1HW.to(wide).expand_as(cost_BCHW)
    return (weight * cost_BCHW).sum(dim=_CHW) / weight.sum(dim=_CHW)


def huber_threshold(sigmas_B: torch.Tensor, objective: Objective) -> torch.Tensor:
    """The c of ``flow_loss`` at each sigma, [B].

    ``constant``: huber_c. ``exponential``: huber_c^sigma. ``snr``: huber_c + (1 - huber_c) ·
    (1 - sigma)². The last two fall from 1 at sigma 0 to huber_c at sigma 1.
    Source: kohya's sd-scripts, ``get_huber_threshold_if_needed``: exp(ln(huber_c) · t / 1000) with
    t = 1000 · sigma, and (1 - huber_c) / (1 + s)² + huber_c with s the noise's share over the
    data's, which for flow matching is sigma / (1 - sigma).
    """
    c = objective.huber_c
    match objective.huber_schedule:
        case "constant":
            return torch.full_like(sigmas_B, c)
        case "exponential":
            return torch.pow(c, sigmas_B)
        case "snr":
            return c + (1 - c) * (1 - sigmas_B).square()
