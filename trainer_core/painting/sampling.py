"""Sample one picture with diffusers' own pipeline, from text embeddings."""

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
    """diffusers' pipeline without encoders and progress bar: it takes embeddings only."""
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
    """One picture of exactly the requested size; the transformer's modes are restored after it.

    Args:
        transformer: on the device that samples.
        vae: on the same device; its dtype may differ.
        scheduler: of the base model.
        embeddings: of the prompt, one row, on that device, in the dtype that the transformer
            computes in.
        negative: of the negative prompt, likewise; used where ``guidance`` is above 1.
        width_px: a multiple of 16. A picture that is not square is padded to the longest sequence
            of patches, as the pipeline does it.
        height_px: a multiple of 16.
        steps: of the scheduler.
        guidance: the scale of classifier-free guidance.
        seed: of the noise, which is drawn on the CPU and so is the same on every device.

    Raises ValueError for another size.
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
    """Set the pipeline's default area to the requested one: it scales every request to that area.

    It then rounds down to multiples of 16 px. So the square root is raised by a billionth, which
    keeps a rounding error from costing 16 px.
    """
    side_px = math.sqrt(width_px * height_px)
    pipeline.default_sample_size = side_px * (1 + 1e-9) / pipeline.vae_scale_factor


@contextmanager
def _eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each sub-module has its earlier mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
