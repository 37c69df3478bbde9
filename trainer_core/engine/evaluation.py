"""Measures the fixed validation loss of a run; ``validation.fixed_loss`` defines it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import torch

from trainer_core.engine.batch import Draw
from trainer_core.engine.control import check_stop
from trainer_core.engine.reporting import report_fixed_loss
from trainer_core.engine.state import Run, TrainingState
from trainer_core.errors import NonFiniteLossError
from trainer_core.validation.fixed_loss import EvaluationSample, FixedLoss, measure_fixed_loss

_NAMED: Final = 3
"""At most this many pictures are named in an error."""


def measure_loss(run: Run, state: TrainingState) -> FixedLoss:
    """Measure and report the fixed validation loss of the parameters as they are.

    Raises StopRequestedError between two batches, and NonFiniteLossError where the loss is not
    finite.
    """

    def losses(samples: Sequence[EvaluationSample]) -> torch.Tensor:
        # The purpose "probe" seeds the draws: another name would change every loss.
        draws = [
            Draw(sample=s.sample, text=s.text, purpose="probe", i=s.i, slot=0) for s in samples
        ]
        batch = run.loaded.batches.batch(draws).to(run.loaded.network.compute.device)
        return run.backend.losses(batch)

    with in_eval_mode(run):
        loss = measure_fixed_loss(
            run.evaluation_samples, run.job.index, losses, before_batch=lambda: check_stop(run)
        )
    report_fixed_loss(run, state, loss)
    if not math.isfinite(loss.mean):
        if state.step > 0:
            raise NonFiniteLossError(f"the loss measured after step {state.step} is not finite")
        raise NonFiniteLossError(_before_the_first_step(run, loss))
    return loss


@contextmanager
def in_eval_mode(run: Run) -> Iterator[None]:
    """Without dropout, so that a loss depends on nothing but the parameters."""
    run.loaded.network.transformer.eval()
    try:
        yield
    finally:
        run.loaded.network.transformer.train()


def _before_the_first_step(run: Run, loss: FixedLoss) -> str:
    """Where the numbers come from, as far as the losses of the samples tell."""
    pairs = zip(run.evaluation_samples, loss.losses, strict=True)
    bad = [sample for sample, value in pairs if not math.isfinite(value)]
    text = "the loss measured before the first step is not finite"
    if len(bad) == len(loss.losses):
        return (
            f"{text} for any picture: weights of the base model, or of the adapter that the run "
            "starts from, are not finite or too large for mixed_precision. No step was taken."
        )
    samples = (run.job.index.samples[each.sample] for each in bad)
    names = list(dict.fromkeys(f"{sample.backend}: {sample.path}" for sample in samples))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (
        f"{text} for {', '.join(names[:_NAMED])}{more}: look at these pictures and their captions, "
        "or leave them out. No step was taken."
    )
