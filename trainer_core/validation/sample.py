"""The sample image of a result: the trained model's image for the plan's prompt."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, HiDreamImageTransformer2DModel
from PIL import Image

from trainer_core.config.plan import Operation
from trainer_core.data.index import DataIndex
from trainer_core.hidream.loading import load_scheduler
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.painting.options import SamplingOptions
from trainer_core.painting.sampling import sample_image
from trainer_core.precision.compute import Compute


def sample_for_result(
    transformer: HiDreamImageTransformer2DModel,
    vae: AutoencoderKL,
    base_model_dir: Path,
    *,
    operation: Operation,
    index: DataIndex,
    read_text: Callable[[int], TextEmbeddings],
    compute: Compute,
) -> Image.Image:
    """One image with the plan's prompt, size, steps, guidance and seed.

    ``read_text`` reads the prompts' cached embeddings, so no text encoder is loaded. The VAE is
    moved to the device, where nothing needs it before.
    """
    texts = [
        read_text(index.prompts[prompt]).to(device=compute.device, dtype=compute.weights)
        for prompt in (operation.sample_prompt, operation.sample_negative_prompt)
    ]
    with torch.no_grad(), compute.context():
        return sample_image(
            transformer,
            vae.to(compute.device),
            load_scheduler(base_model_dir),
            texts[0],
            texts[1],
            options=SamplingOptions(
                width_px=operation.sample_width_px,
                height_px=operation.sample_height_px,
                steps=operation.sample_steps,
                guidance=operation.sample_guidance,
                seed=operation.sample_seed,
            ),
        )
