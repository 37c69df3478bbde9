"""Makes the pictures that are due after a step. Training goes on as if there were none."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import torch
from PIL import Image
from pydantic import JsonValue

from trainer_core.checkpoint.folders import read_manifest
from trainer_core.checkpoint.layout import FileFacts, adapter_files, checkpoint_name
from trainer_core.config.plan import Pictures, Shown
from trainer_core.config.plan.pictures import USUAL_SHARE
from trainer_core.engine.control import check_control, check_own_stop
from trainer_core.engine.picture_adapter import (
    further_facts,
    laid_over_pictures,
    read_picture_adapter,
)
from trainer_core.engine.previews import clear_preview, make_preview_if_due
from trainer_core.engine.reporting import (
    report_picture,
    report_stage,
    report_step,
    report_warning,
)
from trainer_core.engine.scores import Scores, facts_of, score_in, score_of
from trainer_core.engine.state import Run, TrainingState
from trainer_core.errors import CheckpointError
from trainer_core.export.origin import ADAPTER_NAME, LIVE_FOLDER
from trainer_core.faultpoints import fault_point
from trainer_core.hidream.loading import load_scheduler
from trainer_core.hidream.samplers import Taken, named_sampler
from trainer_core.hidream.timestep_sampling import AutoShift
from trainer_core.painting.options import SamplingOptions
from trainer_core.process.stat import age_s
from trainer_core.validation.pictures import (
    ADAPTER_FACT,
    Picture,
    pictures_of,
    sampling_options,
    write_picture,
    written_facts,
)
from trainer_core.validation.sample import as_exported, sample_network

_NO_MEMORY: Final = (
    "{count} of {of} pictures after step {step} are left out: sampling {size} needs more memory "
    "than the card has beside the training. Lower validation_resolution, or set validation_disable."
)
_NO_TIME: Final = (
    "{count} of {of} pictures after step {step} are left out: with them, pictures would take more "
    "than validation_time_share ({share:g}) of the run's time. Raise it, or lower "
    "validation_num_inference_steps or the number of prompts, or make pictures less often."
)


def make_first_pictures(run: Run, state: TrainingState) -> None:
    """Make what is due before this process trains: at step 0, and what a stop left out of a step.

    The plan has pictures. Raises StopRequestedError, and AdapterFileError of a further adapter.
    """
    pictures = run.plan.operation.pictures
    assert pictures is not None
    clear_preview(run)  # a process that was killed has left it
    read_picture_adapter(run, state)
    shown: tuple[Shown, ...] = ()
    if state.step == 0:
        has_start = run.plan.identity.start_adapter is not None
        shown = pictures.before_training(has_start=has_start)
    elif run.is_picture_step(state.step):
        shown = _after_steps(run, pictures)
    _make(run, state, pictures, shown, is_start=True)


def make_pictures(run: Run, state: TrainingState) -> None:
    """Make the pictures of the current step, for which ``Run.is_picture_step`` holds.

    Every rank calls it at the same step; rank 0 writes. Raises StopRequestedError and DiskError.
    """
    pictures = run.plan.operation.pictures
    assert pictures is not None
    _make(run, state, pictures, _after_steps(run, pictures), is_start=False)


def report_training(run: Run, state: TrainingState) -> None:
    """Report that steps follow.

    A local run makes the contact sheet of new pictures at this event: in their share of the time.
    """
    started_s = time.monotonic()
    report_stage(run, state, "training")
    state.pictures.spent_s += time.monotonic() - started_s
    state.throughput.start(state.step)


def _after_steps(run: Run, pictures: Pictures) -> tuple[Shown, ...]:
    return pictures.after_steps(has_mean=run.plan.identity.ema is not None)


def _make(
    run: Run,
    state: TrainingState,
    pictures: Pictures,
    shown: tuple[Shown, ...],
    *,
    is_start: bool,
) -> None:
    """``is_start``: this process has made no step yet, so others may have made some of them."""
    groups = [(each, list(pictures_of(pictures, state.step, each))) for each in shown]
    count = sum(len(group) for _, group in groups)
    if count == 0:
        return
    report_step(run, state)
    report_stage(run, state, "sampling")
    painter = _Painter(run, state, pictures, count)
    try:
        for each, group in groups:
            with _weights(run, each), laid_over_pictures(run, state):
                for picture in group:
                    check_control(run, state, stage="sampling")
                    painter.make(picture, is_start=is_start)
    finally:
        painter.scores.report()
        painter.tell_left_out()
        clear_preview(run)
        torch.cuda.empty_cache()  # steps from graphs cannot use what sampling has kept
    state.throughput.start(state.step)


@contextmanager
def _weights(run: Run, shown: Shown) -> Iterator[None]:
    """Inside, the network computes with the weights that the pictures show, whole on each rank."""
    adapter = run.loaded.network.adapter
    with ExitStack() as stack:
        if shown == "ema":
            stack.enter_context(run.backend.with_means())
        if adapter is not None and shown == "base":
            stack.enter_context(adapter.switch.off())
        stack.enter_context(run.backend.gathered())
        yield


class _Painter:
    """Makes the pictures of one step."""

    def __init__(self, run: Run, state: TrainingState, pictures: Pictures, count: int) -> None:
        """``count``: of the step's pictures."""
        self._run = run
        self._state = state
        self._pictures = pictures
        self._count = count
        self._without_time = 0
        self._without_memory: list[Picture] = []
        self.scores = Scores(run, state)
        folder = Path(run.job.base_model_dir)
        self._auto_shift = AutoShift.of_scheduler(load_scheduler(folder).config)
        self._named_sampler = named_sampler(folder)

    def make(self, picture: Picture, *, is_start: bool) -> None:
        """Make and report a picture, unless there is no time or no memory for it."""
        run, times = self._run, self._state.pictures
        options = sampling_options(
            self._pictures, picture, run.plan.identity.objective, self._auto_shift
        )
        facts = self._facts(picture, options)
        path = Path(run.job.output_dir) / picture.path
        is_asked = is_start and run.backend.rank == 0
        if run.backend.max_across_ranks(int(is_asked and self._is_made(picture, facts))):
            return
        size = picture.size.width_px, picture.size.height_px
        expected_s = times.expected_s.get(size, 0.0)
        elapsed_s = age_s(os.getpid()) + expected_s
        is_late = times.spent_s + expected_s > self._pictures.allowed_s(elapsed_s)
        if run.backend.max_across_ranks(int(is_late)):
            self._without_time += 1
            return
        started_s = time.monotonic()
        try:
            self.scores.prepare()
            sampling_s = time.monotonic()
            image = self._sampled(picture, options)
            if image is None:
                self._without_memory.append(picture)
                return
            took_s = time.monotonic() - sampling_s
            score = self.scores.score(picture, image)
            times.expected_s[size] = time.monotonic() - sampling_s
        finally:
            times.spent_s += time.monotonic() - started_s
        if run.backend.rank == 0:
            fault_point("picture.before_file")
            sha256 = write_picture(path, image, {**facts, **facts_of(score)})
            fault_point("picture.before_event")
            report_picture(
                run,
                self._state,
                picture,
                options,
                sha256=sha256,
                size_bytes=path.stat().st_size,
                took_s=took_s,
                score=facts_of(score),
            )

    def _is_made(self, picture: Picture, facts: dict[str, JsonValue]) -> bool:
        """Whether an earlier process made it of the weights that this one starts from."""
        job, path = self._run.job, picture.path.as_posix()
        if path in job.pictures_made:  # a supervisor has the file
            return self.scores.keeps(picture, score_of(job.scores_made.get(path)))
        if job.resume_from is None:
            return False
        made = written_facts(Path(job.output_dir) / picture.path, facts)
        return made is not None and self.scores.keeps(picture, score_in(made))

    def _sampled(self, picture: Picture, options: SamplingOptions) -> Image.Image | None:
        """The image; None where the device has too little memory, also without the steps' own."""
        for is_last in (False, True):
            image = self._tried(picture, options)
            if not self._run.backend.max_across_ranks(int(image is None)):
                return image
            if not is_last:
                self._run.backend.free_memory()
            del image
            torch.cuda.empty_cache()
        return None

    def _tried(self, picture: Picture, options: SamplingOptions) -> Image.Image | None:
        run = self._run
        index, read = run.job.index, run.loaded.batches.text
        texts = picture.prompt.text, self._pictures.negative_prompt
        try:
            fault_point("picture.before_sampling")
            strength = self._pictures.strength_of(picture.prompt)
            with as_exported(run.loaded.network, strength):
                return sample_network(
                    run.loaded.network,
                    run.loaded.vae,
                    Path(run.job.base_model_dir),
                    texts=(read(index.prompts[texts[0]]), read(index.prompts[texts[1]])),
                    options=options,
                    after_step=partial(self._after_sampler_step, picture),
                    is_laid_over=self._state.pictures.adapter is not None,
                )
        except torch.OutOfMemoryError:
            return None

    def _after_sampler_step(self, picture: Picture, number: int, taken: Taken) -> None:
        # Where memory fails on one of several ranks, it makes fewer steps than the others.
        check_own_stop(self._run)
        make_preview_if_due(self._run, self._state, picture, number, taken)

    def tell_left_out(self) -> None:
        """Warn of the pictures that were left out."""
        numbers = {"of": self._count, "step": self._state.step}
        if self._without_memory:
            size = self._without_memory[0].size
            text = _NO_MEMORY.format(
                count=len(self._without_memory),
                size=f"{size.width_px}x{size.height_px} px",
                **numbers,
            )
            report_warning(self._run, self._state, "picture_memory", text)
        if self._without_time:
            share = self._pictures.time_share or USUAL_SHARE
            text = _NO_TIME.format(count=self._without_time, share=share, **numbers)
            report_warning(self._run, self._state, "picture_time", text)

    def _facts(self, picture: Picture, options: SamplingOptions) -> dict[str, JsonValue]:
        """What the file says of the picture; with it, `reverie generate` makes the same one."""
        plan = self._run.plan
        precision = plan.identity.precision
        return {
            "prompt": picture.prompt.text,
            "negative_prompt": self._pictures.negative_prompt,
            "seed": picture.seed,
            "step": picture.step,
            "weights": picture.shown,
            "sampler_steps": options.steps,
            "guidance": options.guidance,
            "guidance_rescale": options.guidance_rescale or None,
            "sampler": options.sampler or self._named_sampler,
            "shift": options.shift,
            "strength": self._strength(picture),
            "base_model": plan.identity.base.name,
            "base_precision": precision.base,
            "compute": precision.compute,
            "plan_digest": plan.identity_digest(),
            "run": plan.operation.tracker_run_name,
            ADAPTER_FACT: self._adapter_sha256(picture),
            **further_facts(self._pictures, self._state),
        }

    def _strength(self, picture: Picture) -> float | None:
        return None if picture.shown == "base" else self._pictures.strength_of(picture.prompt)

    def _adapter_sha256(self, picture: Picture) -> str | None:
        """Of the adapter file with these weights in the step's checkpoint, if there is one."""
        if picture.shown == "base" or self._run.backend.rank != 0:
            return None
        job = self._run.job
        folders = [job.checkpoints_dir / checkpoint_name(picture.step)]
        if job.resume_from is not None:  # a supervisor has it elsewhere
            folders.append(Path(job.resume_from))
        for folder in folders:
            with suppress(CheckpointError):
                manifest = read_manifest(folder)
                if manifest.step == picture.step:
                    return self._sha256_in(adapter_files(manifest), picture)
        return None

    def _sha256_in(self, files: Mapping[str, FileFacts], picture: Picture) -> str | None:
        """Of the file of the weights that the picture shows."""
        is_beside_mean = self._run.plan.identity.ema is not None and picture.shown == "trained"
        name = f"{LIVE_FOLDER}/{ADAPTER_NAME}" if is_beside_mean else ADAPTER_NAME
        return files[name].sha256 if name in files else None
