"""One picture with the stock pipeline, from cached text embeddings."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
)
from PIL import Image

from trainer_core.hidream.text import TextEmbeddings
from trainer_core.hidream.vae import decode


def pipeline_for_sampling(
    transformer: HiDreamImageTransformer2DModel,
    vae: AutoencoderKL,
    scheduler: FlowMatchEulerDiscreteScheduler,
) -> HiDreamImagePipeline:
    """The stock pipeline without its encoders and progress bar; it takes embeddings only."""
    pipeline = HiDreamImagePipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
        text_encoder_4=None,
        tokenizer_4=None,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample_image(
    transformer: HiDreamImageTransformer2DModel,
    vae: AutoencoderKL,
    scheduler: FlowMatchEulerDiscreteScheduler,
    embeddings: TextEmbeddings,
    negative: TextEmbeddings,
    *,
    width_px: int,
    height_px: int,
    steps: int,
    guidance: float,
    seed: int,
) -> Image.Image:
    """One picture of exactly the asked size (multiples of 16 px), the transformer left as it was.

    ``guidance`` above 1 contrasts ``embeddings`` with ``negative`` (one row each). Noise is drawn
    on the CPU from ``seed``, so it does not depend on the device. Non-square pictures are padded to
    the longest sequence, as the stock pipeline has it. Embeddings come on the transformer's device
    and in the type in which it computes; the VAE may have another type.
    """
    if width_px % 16 or height_px % 16:
        raise ValueError(f"{width_px} by {height_px} px: both sides have to be multiples of 16")
    pipeline = pipeline_for_sampling(transformer, vae, scheduler)
    _accept_size(pipeline, width_px, height_px)
    with _eval_mode(transformer), torch.no_grad():
        latents = pipeline(
            height=height_px,
            width=width_px,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed),
            prompt_embeds_t5=embeddings.t5,
            prompt_embeds_llama3=embeddings.llama.transpose(0, 1),
            pooled_prompt_embeds=embeddings.pooled,
            negative_prompt_embeds_t5=negative.t5,
            negative_prompt_embeds_llama3=negative.llama.transpose(0, 1),
            negative_pooled_prompt_embeds=negative.pooled,
            output_type="latent",
        ).images
        pictures = pipeline.image_processor.postprocess(decode(vae, latents), output_type="pil")
    picture: Image.Image = pictures[0]
    return picture


def _accept_size(pipeline: HiDreamImagePipeline, width_px: int, height_px: int) -> None:
    """Make the pipeline's own area the asked one: it scales every request to that area.

    It then rounds down to multiples of 16 px, so the root is nudged up by less than one of them.
    """
    side_px = math.sqrt(width_px * height_px)
    pipeline.default_sample_size = side_px * (1 + 1e-9) / pipeline.vae_scale_factor


@contextmanager
def _eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """Eval inside, and every sub-module's own mode again after it."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
