"""Measures the evaluation loss while a run trains; ``validation.evaluation`` defines it.

It leaves weights, optimizer state and random state as they were, so that a run trains the same
weights with it and without it.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import torch

from trainer_core.engine.batch import Batch, BatchMaker
from trainer_core.engine.control import check_stop
from trainer_core.engine.evaluation import in_eval_mode
from trainer_core.engine.reporting import (
    report_evaluation,
    report_stage,
    report_step,
    report_warning,
)
from trainer_core.engine.state import Run, TrainingState
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.validation.evaluation import (
    EvaluationImage,
    EvaluationLoss,
    EvaluationRow,
    EvaluationSet,
    measure_evaluation,
)
from trainer_core.validation.evaluations import Evaluated, Evaluations
from trainer_core.validation.expert_use import ExpertUse, shares_of

_SIGN_OF_LIFE_S: Final = 60.0
"""A supervisor takes a process that writes no event for one that hangs."""


def evaluate_if_due(run: Run, state: TrainingState) -> None:
    """Measure and report the evaluation loss, where it is due after the current step.

    What was measured at this step before the run resumed is not measured again. Every rank calls it
    at the same, completed step. Raises StopRequestedError between two batches.
    """
    measured, known = run.evaluation_set, state.evaluations
    if measured is None or not run.is_evaluation_step(state.step):
        _tell_missing(run, state)
        return
    known = known or Evaluations(basis=measured.digest())
    if known.step == state.step:
        return
    report_step(run, state)
    report_stage(run, state, "evaluating")
    started_s = time.monotonic()
    loss, expert_use = _measure(run, state, measured)
    is_finite = math.isfinite(loss.total.mean)
    found = Evaluated(
        step=state.step,
        mean=loss.total.mean if is_finite else None,
        low=loss.total.low,
        high=loss.total.high,
    )
    state.evaluations = known.with_newest(found)
    took_s = time.monotonic() - started_s
    report_evaluation(run, state, loss, expert_use=expert_use, took_s=took_s)
    if not is_finite:
        message = f"the evaluation loss after step {state.step} is not finite"
        report_warning(run, state, "evaluation_not_finite", message)
    state.throughput.start(state.step)


def _tell_missing(run: Run, state: TrainingState) -> None:
    """Once, where the plan wants what cannot be measured."""
    plan = run.plan.operation.evaluation
    if plan is not None and run.evaluation_set is None and not state.has_started:
        message = f"no evaluation loss: no image of {', '.join(plan.backends)} can be used"
        report_warning(run, state, "nothing_to_evaluate", message)


def _measure(
    run: Run, state: TrainingState, measured: EvaluationSet
) -> tuple[EvaluationLoss, Sequence[Sequence[float]]]:
    """The loss, and the share of each expert in the choices of its layer."""
    identity = run.plan.identity
    use = ExpertUse(int(run.loaded.network.transformer.config.num_routed_experts))
    largest_px = max(each.width_px * each.height_px for each in run.job.index.samples)
    with run.backend.with_means(), in_eval_mode(run), _random_state_kept(run):
        loss = measure_evaluation(
            measured,
            _losses(run, use),
            most_px=identity.micro_batch_size * largest_px,
            rank=run.backend.rank,
            ranks=run.backend.ranks,
            add=run.backend.sum_across_ranks,
            before_batch=_between_batches(run, state),
            after_counted=use.keep,
        )
        return loss, shares_of(run.backend.sum_across_ranks(use.counts()))


@contextmanager
def _random_state_kept(run: Run) -> Iterator[None]:
    """Nothing here draws from torch's global generators; a module that does changes nothing."""
    device = run.loaded.network.compute.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def _between_batches(run: Run, state: TrainingState) -> Callable[[], None]:
    told_s = time.monotonic()

    def between() -> None:
        nonlocal told_s
        check_stop(run)
        if time.monotonic() - told_s > _SIGN_OF_LIFE_S:
            told_s = time.monotonic()
            report_stage(run, state, "evaluating")

    return between


def _losses(run: Run, use: ExpertUse) -> Callable[[Sequence[EvaluationRow]], torch.Tensor]:
    """What computes the loss of each row of a batch, [B].

    Where a device has too little memory beside the graphs of the steps, these are freed; the next
    step captures them again.
    """
    batches = EvaluationBatches(run.loaded.batches)
    backend, device = run.backend, run.loaded.network.compute.device
    objective = run.plan.identity.objective.model_copy(update={"loss": "l2"})

    def losses(rows: Sequence[EvaluationRow]) -> torch.Tensor:
        batch = batches.batch(rows)
        use.begin()
        try:
            return backend.losses(batch.to(device), objective, use.note)
        except torch.OutOfMemoryError:
            if backend.is_sharded:  # the others wait for this rank in the same forward
                raise
        backend.free_memory()
        torch.cuda.empty_cache()
        use.begin()
        return backend.losses(batch.to(device), objective, use.note)

    return losses


class _Read(NamedTuple):
    """What the cache has of an image, and its fixed draw of the posterior."""

    latents_1CHW: torch.Tensor
    text: TextEmbeddings
    mask_11HW: torch.Tensor | None


class EvaluationBatches:
    """Builds batches on the CPU; the rows of an image that follow one another read it once."""

    def __init__(self, maker: BatchMaker) -> None:
        self._maker = maker
        self._read = functools.lru_cache(maxsize=1)(self._read_anew)

    def batch(self, rows: Sequence[EvaluationRow]) -> Batch:
        """One batch of rows of one size."""
        read = [self._read(row.image) for row in rows]
        noise = [
            torch.randn(each.latents_1CHW.shape, generator=_generator(row))
            for row, each in zip(rows, read, strict=True)
        ]
        return self._maker.assembled(
            torch.cat([each.latents_1CHW for each in read]),
            torch.cat(noise),
            torch.tensor([row.sigma for row in rows]),
            TextEmbeddings.concatenate([each.text for each in read]),
            [each.mask_11HW for each in read],
        )

    def _read_anew(self, image: EvaluationImage) -> _Read:
        posterior = torch.Generator().manual_seed(image.seed("posterior"))
        return _Read(
            latents_1CHW=self._maker.latents(image.sample, posterior),
            text=self._maker.text(image.text),
            mask_11HW=self._maker.mask(image.sample),
        )


def _generator(row: EvaluationRow) -> torch.Generator:
    return torch.Generator().manual_seed(row.image.seed("noise", row.number))
