"""Makes previews while a picture is sampled. The picture and the training stay as without them."""

import contextlib
from pathlib import Path
from typing import Final

import torch
from PIL import Image
from pydantic import JsonValue

from trainer_core.config.plan import Previews
from trainer_core.disk import DiskError
from trainer_core.engine.reporting import report_preview, report_warning
from trainer_core.engine.state import Run, TrainingState
from trainer_core.errors import BaseModelError
from trainer_core.hidream.samplers import Taken
from trainer_core.in_words import error_in_words
from trainer_core.validation.pictures import Picture
from trainer_core.validation.previews import (
    FILE,
    Decoder,
    linear_decoder,
    preview_image,
    remove_preview,
    tiny_decoder,
    write_preview,
)

_FAILED: Final = (
    "no more previews: one of {picture} could not be made ({why}). Pictures are made as before; "
    "without validation_preview this is not tried."
)
_NO_AUTOENCODER: Final = (
    "validation_preview_autoencoder is not used, and previews show colours only: {why}"
)
_NOWHERE: Final = "this machine has no Tiny AutoEncoder {name}"


def make_preview_if_due(
    run: Run, state: TrainingState, picture: Picture, number: int, taken: Taken
) -> None:
    """Replace the preview after a step of the sampler where one is due, and report it.

    Rank 0 makes it. Where that fails a warning says so once, and no more are made.

    Args:
        run: the run.
        state: its step is that of the picture.
        picture: that is sampled.
        number: of the sampler's step, from 1.
        taken: the sampler's step.
    """
    pictures = run.plan.operation.pictures
    plan = None if pictures is None else pictures.previews
    if pictures is None or plan is None or number % plan.steps or run.backend.rank != 0:
        return
    if state.previews.has_failed:
        return
    try:
        # Autocast would have the VAE compute in bf16, which a CPU does slowly.
        with torch.autocast(taken.noisy_NChw.device.type, enabled=False):
            image = _image(run, state, plan, picture, taken)
        facts: dict[str, JsonValue] = {
            "picture": picture.path.as_posix(),
            "sampler_step": number,
            "sampler_steps": pictures.steps,
        }
        write_preview(Path(run.job.output_dir), image, facts)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a preview, the run goes on
        state.previews.has_failed = True
        state.previews.decode = None
        message = _FAILED.format(picture=picture.path, why=error_in_words(error))
        with contextlib.suppress(DiskError):  # the disk is full, and still no run ends for this
            report_warning(run, state, "preview_failed", message)
        return
    with contextlib.suppress(DiskError):
        report_preview(
            run,
            state,
            picture,
            path=FILE,
            size_px=image.size,
            sampler_step=number,
            sampler_steps=pictures.steps,
        )


def clear_preview(run: Run) -> None:
    """Remove the preview: its picture is done, or was left by a process that is dead."""
    if run.backend.rank == 0:
        with contextlib.suppress(OSError):  # a preview too many does no harm
            remove_preview(Path(run.job.output_dir))


def _image(
    run: Run, state: TrainingState, plan: Previews, picture: Picture, taken: Taken
) -> Image.Image:
    latents = taken.clean()
    decode = state.previews.decode
    if decode is None:
        decode = state.previews.decode = _decoder(run, state, plan, latents.device)
    return preview_image(decode(latents), picture.size)


def _decoder(run: Run, state: TrainingState, plan: Previews, device: torch.device) -> Decoder:
    """A warning says why the Tiny AutoEncoder that the plan names is not used."""
    vae, folder = run.loaded.vae, run.job.preview_autoencoder
    if plan.autoencoder is None:
        return linear_decoder(vae, device)
    why = _NOWHERE.format(name=plan.autoencoder)
    if folder is not None:
        try:
            return tiny_decoder(Path(folder), vae, device)
        except BaseModelError as error:
            why = str(error)
    report_warning(run, state, "preview_autoencoder", _NO_AUTOENCODER.format(why=why))
    return linear_decoder(vae, device)
