"""Sample one image with diffusers' own pipeline, from text embeddings."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, HiDreamImagePipeline
from PIL import Image
from torch import nn

from trainer_core.hidream.samplers import Scheduler, SeededLcm, Taken
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.hidream.vae import decode, on_device
from trainer_core.painting.guidance import RescaledGuidance
from trainer_core.painting.options import SamplingOptions

AfterStep = Callable[[int, Taken], None]
"""Gets the number of a sampler's step, from 1, and the step, once it is taken."""


def pipeline_for_sampling(
    transformer: nn.Module,
    vae: AutoencoderKL,
    scheduler: Scheduler,
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
    transformer: nn.Module,
    vae: AutoencoderKL,
    scheduler: Scheduler,
    embeddings: TextEmbeddings,
    negative: TextEmbeddings,
    *,
    options: SamplingOptions,
    after_step: AfterStep = lambda _number, _taken: None,
) -> Image.Image:
    """One image of exactly the requested size.

    As in diffusers' pipeline, the patches of an image that is not square are padded to the longest
    sequence. The transformer samples in evaluation mode; afterwards each of its sub-modules has its
    earlier mode again, and the VAE, which is on the transformer's device only while it decodes, its
    earlier device. torch's global generator of the CPU keeps its state.

    Args:
        transformer: diffusers' own, or one that is called in the same way, on any device.
        vae: the VAE; its device and dtype may differ.
        scheduler: from ``load_sampler``, for the sampler and the shift of the options.
        embeddings: embeddings of the prompt: one row, on the transformer's device, in its dtype.
        negative: embeddings of the negative prompt, likewise.
        options: size, steps, guidance and seed.
        after_step: called after each step of the sampler; it may raise to end the sampling.

    Raises:
        ValueError: a side is not a multiple of 16.
    """
    width_px, height_px = options.width_px, options.height_px
    if width_px % 16 or height_px % 16:
        raise ValueError(f"{width_px} by {height_px} px: both sides have to be multiples of 16")
    pipeline = pipeline_for_sampling(_guided(transformer, options), vae, scheduler)
    # It only decodes, below. With it the pipeline might take its device for that of the sampling.
    pipeline.register_modules(vae=None)
    _accept_size(pipeline, width_px, height_px)
    generator = torch.Generator().manual_seed(options.seed)
    if isinstance(scheduler, SeededLcm):
        scheduler.generator = generator

    def ended(_pipeline: Any, before: int, *_: Any) -> dict[str, Any]:
        assert scheduler.taken is not None
        after_step(before + 1, scheduler.taken)
        return {}

    with torch.random.fork_rng(devices=[]), _eval_mode(transformer), torch.no_grad():
        latents = pipeline(
            height=height_px,
            width=width_px,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=generator,
            prompt_embeds_t5=embeddings.t5,
            prompt_embeds_llama3=embeddings.llama.transpose(0, 1),
            pooled_prompt_embeds=embeddings.pooled,
            negative_prompt_embeds_t5=negative.t5,
            negative_prompt_embeds_llama3=negative.llama.transpose(0, 1),
            negative_pooled_prompt_embeds=negative.pooled,
            output_type="latent",
            callback_on_step_end=ended,
        ).images
        with on_device(vae, latents.device):
            decoded = decode(vae, latents)
        images = pipeline.image_processor.postprocess(decoded, output_type="pil")
    image: Image.Image = images[0]
    return image


def _guided(transformer: nn.Module, options: SamplingOptions) -> nn.Module:
    if options.guidance <= 1 or options.guidance_rescale == 0:
        return transformer
    return RescaledGuidance(
        transformer, guidance=options.guidance, rescale=options.guidance_rescale
    )


def _accept_size(pipeline: HiDreamImagePipeline, width_px: int, height_px: int) -> None:
    """Set the pipeline's default area to the requested one.

    The pipeline scales every request to its default area and then rounds down to multiples of
    16 px. The factor 1 + 1e-9 keeps a floating-point error from costing 16 px.
    """
    side_px = math.sqrt(width_px * height_px)
    pipeline.default_sample_size = side_px * (1 + 1e-9) / pipeline.vae_scale_factor


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; each sub-module gets its earlier mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
