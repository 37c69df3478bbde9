"""Previews: small pictures of what a sampler makes, while it makes it, and their file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL
from PIL import Image
from pydantic import JsonValue

from trainer_core.config.plan import PictureSize
from trainer_core.errors import BaseModelError
from trainer_core.hidream.latent_colours import map_of
from trainer_core.hidream.loading import load_tiny_decoder
from trainer_core.hidream.vae import decode, on_device
from trainer_core.validation.pictures import FOLDER, write_picture

FILE: Final = f"{FOLDER}/preview.png"
"""Below the run's output folder, while a picture is made; each preview replaces the one before."""
_LONGEST_PX: Final = 256

Decoder = Callable[[torch.Tensor], torch.Tensor]
"""Latents [1, C, h, w] in the transformer's convention → colours [3, H, W] in about [-1, 1]."""


def linear_decoder(vae: AutoencoderKL, device: torch.device) -> Decoder:
    """A pixel for each cell of the latents, by the map that is fitted to the VAE on the device."""
    with on_device(vae, device):
        return map_of(vae)


def tiny_decoder(folder: Path, vae: AutoencoderKL, device: torch.device) -> Decoder:
    """A Tiny AutoEncoder of the VAE's latents, on the device; raises BaseModelError."""
    tiny = load_tiny_decoder(folder)
    own, wanted = tiny.config.latent_channels, vae.config.latent_channels
    if own != wanted:
        raise BaseModelError(
            f"{folder}: it decodes latents of {own} channels, and those of the VAE have {wanted}"
        )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.nn.Module.to(tiny, device, dtype)  # diffusers' own method warns of a type given here
    return lambda latents: decode(tiny, latents)[0]


def preview_image(decoded_3HW: torch.Tensor, size: PictureSize) -> Image.Image:
    """In the proportions of the picture, at most 256 px wide and high; any type and device."""
    share = min(1.0, _LONGEST_PX / max(size.width_px, size.height_px))
    size_px = round(size.width_px * share) or 1, round(size.height_px * share) or 1
    levels = ((decoded_3HW.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    image = Image.fromarray(levels.movedim(0, -1).contiguous().cpu().numpy())
    return image.resize(size_px, Image.Resampling.BICUBIC)


def write_preview(output_dir: Path, image: Image.Image, facts: Mapping[str, JsonValue]) -> None:
    """Replace the preview, whole or not at all; the facts are its text. Raises DiskError."""
    write_picture(output_dir / FILE, image, facts)


def remove_preview(output_dir: Path) -> None:
    """Remove the preview, and drafts of it that a killed process left. Raises OSError."""
    file = output_dir / FILE
    file.unlink(missing_ok=True)
    for draft in file.parent.glob(f".{file.name}.*.tmp"):
        draft.unlink(missing_ok=True)
