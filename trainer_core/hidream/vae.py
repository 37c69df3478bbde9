"""Images to latents and back. Letters: N images, C channels (16), h × w cells of 8 px."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import nn


class Moments(NamedTuple):
    """The posterior of N images. The cache stores it, so that each use draws new latents."""

    mean: torch.Tensor
    """[N, C, h, w], fp32, before shift and scale."""
    std: torch.Tensor
    """[N, C, h, w], fp32."""


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: torch.Tensor) -> Moments:
    """Posterior moments of images [N, 3, H, W] with values in [-1, 1], sides multiples of 8.

    Each image is encoded without tiling, because blended tiles give other latents. The VAE's type
    and device are used; the result is fp32 on the CPU.
    """
    posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
    return Moments(posterior.mean.float().cpu(), posterior.std.float().cpu())


def draw_latents(
    vae: AutoencoderKL,
    moments: Iterable[Moments],
    generators: Iterable[torch.Generator],
    *,
    out: torch.Tensor,
) -> None:
    """Write latents of N images in the transformer's convention, drawn on the CPU.

    Args:
        vae: only its shift and scale are used.
        moments: of each image, [1, C, h, w].
        generators: of the draw of each image; the next one is asked for when the draw is done.
        out: [N, C, h, w], fp32.
    """
    shift, scale = latent_shift_and_scale(vae)
    for row, (mean, std), generator in zip(torch.split(out, 1), moments, generators, strict=True):
        row.normal_(generator=generator).mul_(std).add_(mean)
    out.sub_(shift).mul_(scale)


def latent_shift_and_scale(vae: AutoencoderKL | AutoencoderTiny) -> tuple[float, float]:
    """From the VAE's config. The transformer's latents are (latents - shift) * scale."""
    return float(vae.config.shift_factor), float(vae.config.scaling_factor)


def decode(vae: AutoencoderKL | AutoencoderTiny, latents: torch.Tensor) -> torch.Tensor:
    """Images [N, 3, H, W] in about [-1, 1], fp32, from latents in the transformer's convention."""
    shift, scale = latent_shift_and_scale(vae)
    return decode_stored(vae, latents / scale + shift)


@torch.no_grad()
def decode_stored(vae: AutoencoderKL | AutoencoderTiny, latents: torch.Tensor) -> torch.Tensor:
    """The same from latents before shift and scale, as the cache stores them."""
    pictures: torch.Tensor = vae.decode(latents.to(vae.device, vae.dtype), return_dict=False)[0]
    return pictures.float()


@contextmanager
def on_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    """On the device within the block; afterwards where it was."""
    home = next(module.parameters()).device
    try:
        module.to(device)
        yield
    finally:
        module.to(home)
