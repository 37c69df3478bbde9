"""Sample one image with diffusers' own pipeline, from text embeddings."""

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
from trainer_core.painting.options import SamplingOptions


def pipeline_for_sampling(
    transformer: HiDreamImageTransformer2DModel,
    vae: AutoencoderKL,
    scheduler: FlowMatchEulerDiscreteScheduler,
) -> HiDreamImagePipeline:
    """diffusers' pipeline without text encoders or progress bar; it is called with embeddings."""
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
    options: SamplingOptions,
) -> Image.Image:
    """One image of exactly the requested size.

    As in diffusers' pipeline, the patches of an image that is not square are padded to the longest
    sequence. The transformer samples in evaluation mode; afterwards each of its sub-modules has its
    earlier mode again.

    Args:
        transformer: the transformer, on any device.
        vae: the VAE on the same device; its dtype may differ.
        scheduler: the base model's scheduler.
        embeddings: embeddings of the prompt: one row, on the transformer's device, in its dtype.
        negative: embeddings of the negative prompt, likewise.
        options: size, steps, guidance and seed.

    Raises:
        ValueError: a side is not a multiple of 16.
    """
    width_px, height_px = options.width_px, options.height_px
    if width_px % 16 or height_px % 16:
        raise ValueError(f"{width_px} by {height_px} px: both sides have to be multiples of 16")
    pipeline = pipeline_for_sampling(transformer, vae, scheduler)
    _accept_size(pipeline, width_px, height_px)
    with _eval_mode(transformer), torch.no_grad():
        latents = pipeline(
            height=height_px,
            width=width_px,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=torch.Generator().manual_seed(options.seed),
            prompt_embeds_t5=embeddings.t5,
            prompt_embeds_llama3=embeddings.llama.transpose(0, 1),
            pooled_prompt_embeds=embeddings.pooled,
            negative_prompt_embeds_t5=negative.t5,
            negative_prompt_embeds_llama3=negative.llama.transpose(0, 1),
            negative_pooled_prompt_embeds=negative.pooled,
            output_type="latent",
        ).images
        images = pipeline.image_processor.postprocess(decode(vae, latents), output_type="pil")
    image: Image.Image = images[0]
    return image


def _accept_size(pipeline: HiDreamImagePipeline, width_px: int, height_px: int) -> None:
    """Set the pipeline's default area to the requested one.

    The pipeline scales every request to its default area and then rounds down to multiples of
    16 px. The factor 1 + 1e-9 keeps a floating-point error from costing 16 px.
    """
    side_px = math.sqrt(width_px * height_px)
    pipeline.default_sample_size = side_px * (1 + 1e-9) / pipeline.vae_scale_factor


@contextmanager
def _eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; each sub-module gets its earlier mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
