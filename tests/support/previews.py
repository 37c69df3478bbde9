"""Jobs with previews, and a Tiny AutoEncoder to decode them."""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from trainer_core.config.plan import Previews
from trainer_core.process.job import Job


def with_previews(job: Job, autoencoder: Path | None = None) -> Job:
    """The job with a preview after each step of the sampler."""
    operation = job.plan.operation
    assert operation.pictures is not None
    folder = None if autoencoder is None else str(autoencoder)
    previews = Previews(steps=1, autoencoder=folder)
    pictures = operation.pictures.model_copy(update={"previews": previews})
    changed = operation.model_copy(update={"pictures": pictures})
    plan = job.plan.model_copy(update={"operation": changed})
    return job.model_copy(update={"plan": plan, "preview_autoencoder": folder})


def tiny_autoencoder(channels: int) -> AutoencoderTiny:
    """One of latents of so many channels; its weights are random and always the same."""
    widths = (8, 8, 8, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return AutoencoderTiny(
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            latent_channels=channels,
        )
