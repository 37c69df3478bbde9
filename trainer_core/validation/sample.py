"""Images of the network that a run trains: the sample of its result, and pictures on the way."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image

from trainer_core.config.plan import Operation
from trainer_core.data.index import DataIndex
from trainer_core.hidream.network import Network
from trainer_core.hidream.samplers import load_sampler
from trainer_core.hidream.text import TextEmbeddings
from trainer_core.painting.network import transformer_of
from trainer_core.painting.options import SamplingOptions
from trainer_core.painting.sampling import AfterStep, sample_image


def sample_network(
    network: Network,
    vae: AutoencoderKL,
    base_model_dir: Path,
    *,
    texts: tuple[TextEmbeddings, TextEmbeddings],
    options: SamplingOptions,
    after_step: AfterStep = lambda _number, _taken: None,
    is_laid_over: bool = False,
) -> Image.Image:
    """One image of the network's parameters as they are.

    Args:
        network: on its device.
        vae: on any device.
        base_model_dir: has the configuration of the sampler.
        texts: cached embeddings of the prompt and of the negative prompt, one row each.
        options: size, steps, guidance, seed and sampler.
        after_step: as for ``sample_image``.
        is_laid_over: whether a further adapter is (``attach.laid_over``); diffusers' own forward
            then samples also where the blocks are fused.
    """
    compute = network.compute
    # Copies, because products have other bits where a tensor of the cache begins at an odd place.
    prompt, negative = (
        text.to(device=compute.device, dtype=compute.weights).map(torch.clone) for text in texts
    )
    with torch.no_grad(), compute.context():
        return sample_image(
            network.transformer if is_laid_over else transformer_of(network),
            vae,
            load_sampler(base_model_dir, options.sampler, options.shift),
            prompt,
            negative,
            options=options,
            after_step=after_step,
        )


def sample_for_result(
    network: Network,
    vae: AutoencoderKL,
    base_model_dir: Path,
    *,
    operation: Operation,
    index: DataIndex,
    read_text: Callable[[int], TextEmbeddings],
) -> Image.Image:
    """The sample image of a result, with the plan's prompt, size, steps, guidance and seed.

    ``read_text`` reads the prompts' cached embeddings, so no text encoder is loaded.
    """
    prompt, negative = operation.sample_prompt, operation.sample_negative_prompt
    options = SamplingOptions(
        width_px=operation.sample_width_px,
        height_px=operation.sample_height_px,
        steps=operation.sample_steps,
        guidance=operation.sample_guidance,
        guidance_rescale=operation.sample_guidance_rescale,
        seed=operation.sample_seed,
    )
    with as_exported(network, 1.0):
        return sample_network(
            network,
            vae,
            base_model_dir,
            texts=(read_text(index.prompts[prompt]), read_text(index.prompts[negative])),
            options=options,
        )


def as_exported(network: Network, strength: float) -> AbstractContextManager[None]:
    """Inside, an adapter acts as its file does with this strength, bit for bit."""
    adapter = network.adapter
    return nullcontext() if adapter is None else adapter.switch.exported(strength)
