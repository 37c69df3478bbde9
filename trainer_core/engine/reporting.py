"""The events of a run while it trains; ``process.events`` writes them."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import JsonValue

from trainer_core.checkpoint.write import WrittenFolder
from trainer_core.config.plan import Shown
from trainer_core.engine.determinism import resume_promise
from trainer_core.engine.state import Run, TrainingState
from trainer_core.engine.step_metrics import StepMetrics
from trainer_core.engine.used_memory import used_memory
from trainer_core.export.origin import weights_of_result
from trainer_core.painting.options import SamplingOptions
from trainer_core.process.events import EventName
from trainer_core.process.scalars import SIGMA_BIN_NAMES
from trainer_core.validation.evaluation import EvaluationLoss
from trainer_core.validation.fixed_loss import FixedLoss
from trainer_core.validation.pictures import Picture

Stage = Literal["training", "evaluating", "paused", "checkpointing", "sampling", "finalizing"]


def report_plan(run: Run, state: TrainingState) -> None:
    """What is trained, how base model and steps were prepared, and what a resume is worth."""
    loaded = run.loaded
    _emit(
        run,
        state,
        "plan",
        {
            "trainable_modules": loaded.network.trainable_modules,
            "trainable_parameters": loaded.trainable_parameters,
            "steps": run.last_step,
            "preparation": [
                *loaded.network.preparation,
                loaded.matmul.reason,
                *loaded.backend.preparation,
                *resume_promise(loaded.network.compute.device),
            ],
            "warnings": list(run.job.index.warnings),
            "weights": loaded.weights,
            "timings": {**loaded.start_times.as_json()},
        },
    )


def report_stage(run: Run, state: TrainingState, stage: Stage) -> None:
    _emit(run, state, "stage", {"stage": stage})


def report_start(run: Run, state: TrainingState) -> None:
    """How long the start took, once this process has taken its first step."""
    timings = {
        **run.loaded.start_times.as_json(),
        "shard_wait_s": round(run.loaded.entries.waited_s, 3),
    }
    _emit(run, state, "stage", {"stage": "training", "timings": {**timings}})


def report_step(run: Run, state: TrainingState) -> None:
    """The metrics of the current step and the memory in use, unless they are already reported."""
    metrics, state.pending_event = state.pending_event, None
    if metrics is None:
        return
    speed = state.throughput.steps_per_s(state.step)
    last_micro_batch = state.step * run.micro_batches_per_step - 1
    _emit(
        run,
        state,
        "step",
        {
            "loss": metrics.loss,
            "balance_loss": metrics.balance_loss,
            "learning_rate": run.learning_rate(state.step),
            "grad_max": metrics.grad_max,
            "grad_norm": metrics.grad_norm,
            **_by_sigma(metrics),
            "steps_per_s": speed,
            "eta_s": (run.last_step - state.step) / speed if speed else None,
            "epoch": run.sampler.timeline.epoch_of(last_micro_batch),
            **used_memory(run.loaded.network.compute.device),
        },
    )


def _by_sigma(metrics: StepMetrics) -> dict[str, JsonValue]:
    """The loss in each bin that the step has samples in."""
    pairs = zip(SIGMA_BIN_NAMES, metrics.loss_by_sigma, strict=False)
    return {name: loss for name, loss in pairs if loss is not None}


def report_fixed_loss(run: Run, state: TrainingState, loss: FixedLoss) -> None:
    _emit(run, state, "eval", {"name": "probe", **loss.as_json()})


def report_evaluation(
    run: Run,
    state: TrainingState,
    loss: EvaluationLoss,
    *,
    expert_use: Sequence[Sequence[float]],
    took_s: float,
) -> None:
    """The newest evaluation loss, and which is the best so far.

    ``expert_use``: of each layer with experts, the share of its tokens' choices that each one got.
    """
    measured, known = run.evaluation_set, state.evaluations
    assert measured is not None
    assert known is not None
    best_step = None if known.best is None else known.best.step
    _emit(
        run,
        state,
        "eval",
        {
            "name": "evaluation",
            **loss.as_json(),
            "images": len(measured.images),
            "held_out": measured.is_held_out,
            "weights": "ema" if weights_of_result(run.plan.identity) == "ema" else "trained",
            "basis": known.basis,
            "is_best": best_step == state.step,
            "best_step": best_step,
            "expert_use": [[*layer] for layer in expert_use],
            "took_s": round(took_s, 3),
        },
    )


def report_scores(
    run: Run,
    state: TrainingState,
    shown: Shown,
    *,
    clip: Sequence[float],
    similarity: Sequence[float],
) -> None:
    """The scores of a step's pictures that show the same weights.

    ``clip``: with their prompts; at least one. ``similarity``: to the training pictures.
    """
    fields: dict[str, JsonValue] = {
        "name": "clip",
        "weights": shown,
        "mean": math.fsum(clip) / len(clip),
        "min": min(clip),
        "max": max(clip),
        "pictures": len(clip),
    }
    if similarity:
        fields |= {
            "similarity_mean": math.fsum(similarity) / len(similarity),
            "similarity_min": min(similarity),
            "similarity_max": max(similarity),
        }
    _emit(run, state, "eval", fields)


def report_checkpoint(run: Run, state: TrainingState, written: WrittenFolder) -> None:
    _emit(run, state, "checkpoint", _folder_facts(run, written))


def report_warning(run: Run, state: TrainingState, code: str, message: str) -> None:
    _emit(run, state, "warning", {"code": code, "message": message})


def report_sample(run: Run, state: TrainingState, path: str) -> None:
    """The result's image; ``path`` is relative to the job's output folder."""
    _emit(run, state, "sample", {"path": path, "prompt": run.plan.operation.sample_prompt})


def report_preview(
    run: Run,
    state: TrainingState,
    picture: Picture,
    *,
    path: str,
    size_px: tuple[int, int],
    sampler_step: int,
    sampler_steps: int,
) -> None:
    """A preview of a picture: how far its sampler is, and where the newest one is.

    ``size_px``: width and height of the preview.
    """
    fields: dict[str, JsonValue] = {
        "path": path,
        "picture": picture.path.as_posix(),
        "name": picture.prompt.name,
        "weights": picture.shown,
        "seed": picture.seed,
        "width_px": size_px[0],
        "height_px": size_px[1],
        "sampler_step": sampler_step,
        "sampler_steps": sampler_steps,
    }
    _emit(run, state, "preview", fields)


def report_picture(
    run: Run,
    state: TrainingState,
    picture: Picture,
    options: SamplingOptions,
    *,
    sha256: str,
    size_bytes: int,
    took_s: float,
    score: Mapping[str, JsonValue],
) -> None:
    """A picture that was made while it trains; ``sha256`` and ``size_bytes``: of its file.

    ``score``: ``scores.facts_of`` it.
    """
    fields: dict[str, JsonValue] = {
        "path": picture.path.as_posix(),
        "name": picture.prompt.name,
        "prompt": picture.prompt.text,
        "weights": picture.shown,
        "width_px": options.width_px,
        "height_px": options.height_px,
        "seed": options.seed,
        "sampler_steps": options.steps,
        "guidance": options.guidance,
        "sha256": sha256,
        "size_bytes": size_bytes,
        "took_s": round(took_s, 3),
        **score,
    }
    _emit(run, state, "sample", fields)


def report_finished(run: Run, state: TrainingState, result: WrittenFolder) -> None:
    """The last event of a run that took all its steps and wrote its result."""
    _emit(run, state, "finished", _folder_facts(run, result))


def report_stopped(run: Run, state: TrainingState) -> None:
    """The last event of a run that was stopped by a request."""
    _emit(run, state, "stopped", {})


def _folder_facts(run: Run, written: WrittenFolder) -> dict[str, JsonValue]:
    return {
        "path": written.path.relative_to(run.job.output_dir).as_posix(),
        "manifest_sha256": written.manifest_sha256,
        "size_bytes": written.size_bytes,
    }


def _emit(run: Run, state: TrainingState, name: EventName, fields: Mapping[str, JsonValue]) -> None:
    run.events.emit(name, state.step, fields)
