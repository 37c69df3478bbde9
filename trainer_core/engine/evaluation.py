"""Measures the fixed validation loss of a run; ``validation.fixed_loss`` defines it."""

import math
from collections.abc import Sequence

import torch

from trainer_core.engine.batch import Draw
from trainer_core.engine.control import check_stop
from trainer_core.engine.reporting import report_fixed_loss
from trainer_core.engine.state import Run, TrainingState
from trainer_core.errors import NonFiniteLossError
from trainer_core.validation.fixed_loss import EvaluationSample, FixedLoss, measure_fixed_loss


def measure_loss(run: Run, state: TrainingState) -> FixedLoss:
    """Measure and report the fixed validation loss of the parameters as they are.

    Raises StopRequestedError between two batches. Raises NonFiniteLossError where the loss is not
    finite after training. Before the first step it is not checked: the first training step then
    fails with a better message.
    """

    def losses(samples: Sequence[EvaluationSample]) -> torch.Tensor:
        # The purpose "probe" seeds the draws: another name would change every loss.
        draws = [
            Draw(sample=s.sample, text=s.text, purpose="probe", i=s.i, slot=0) for s in samples
        ]
        batch = run.loaded.batches.batch(draws).to(run.loaded.network.compute.device)
        return run.backend.losses(batch)

    # Without dropout, so that a loss depends on nothing but the parameters.
    run.loaded.network.transformer.eval()
    try:
        loss = measure_fixed_loss(
            run.evaluation_samples, run.job.index, losses, before_batch=lambda: check_stop(run)
        )
    finally:
        run.loaded.network.transformer.train()
    report_fixed_loss(run, state, loss)
    if state.step > 0 and not math.isfinite(loss.mean):
        raise NonFiniteLossError(f"the loss measured after step {state.step} is not finite")
    return loss
