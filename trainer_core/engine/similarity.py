"""Embeds the pictures that a run trains on, as their latents in the cache show them."""

from collections.abc import Callable, Iterator

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from trainer_core.engine.control import check_own_stop
from trainer_core.engine.setup import request_entry
from trainer_core.engine.state import Run
from trainer_core.hidream.vae import decode_stored, on_device
from trainer_core.validation.similarity import compared_entries

Embed = Callable[[Image.Image], torch.Tensor]
"""A picture → its embedding, [D], of length 1."""


def training_embeddings(run: Run, embed: Embed) -> torch.Tensor:
    """The embeddings of ``compared_entries``, [N, D]. One rank may call it alone.

    The pictures themselves are not at hand: the VAE decodes the mean of each one's latents.

    Raises StopRequestedError in a run of one process, ShardMissingError and ShardCorruptError where
    the cache lacks an entry, and torch.OutOfMemoryError where the device has too little memory also
    without what steps keep for themselves.
    """
    try:
        return torch.stack([embed(each) for each in _pictures(run)])
    except torch.OutOfMemoryError:
        run.backend.free_memory()
        torch.cuda.empty_cache()
    return torch.stack([embed(each) for each in _pictures(run)])


def _pictures(run: Run) -> Iterator[Image.Image]:
    """One after another, so that a decoder has to fit beside the training with one picture only."""

    def wait(digest: str) -> None:
        request_entry(run.job, digest)
        check_own_stop(run)

    entries = run.loaded.entries.beside(wait)
    processor = VaeImageProcessor()
    vae = run.loaded.vae
    with on_device(vae, run.loaded.network.compute.device):
        for digest in compared_entries(run.plan.identity, run.job.index):
            check_own_stop(run)
            decoded = decode_stored(vae, entries.read(digest, "latents")["mean"])
            yield processor.postprocess(decoded.cpu(), output_type="pil")[0]
