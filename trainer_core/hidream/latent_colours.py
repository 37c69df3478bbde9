"""The colours of latents by a linear map, in place of the VAE's decoder.

The map is fitted to the VAE by least squares: what it decodes from the latents of a few drawn
pictures, as the mean colour of each cell, is computed from the channels of that cell. It costs next
to nothing, and shows where colours and shapes are, without detail.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn.functional import adaptive_avg_pool2d

from trainer_core.hidream.vae import decode, encode_images, latent_shift_and_scale

_PICTURES: Final = 4
_SIDE_PX: Final = 256
_DISCS: Final = 300
_SMALLEST_PX: Final = 4.0
_LARGEST_PX: Final = 96.0


@dataclass(frozen=True, slots=True)
class LinearMap:
    """Colour = weight × channels + bias, in float64 on the CPU; colours as the VAE's, -1 to 1."""

    weight_3C: torch.Tensor
    bias_3: torch.Tensor

    def __call__(self, latents_1Chw: torch.Tensor) -> torch.Tensor:
        """[1, C, h, w] in the transformer's convention → [3, h, w], float64, on the CPU."""
        cells = latents_1Chw[0].to("cpu", torch.float64)
        colours = self.weight_3C @ cells.flatten(1) + self.bias_3[:, None]
        return colours.reshape(3, *cells.shape[1:])


def map_of(vae: AutoencoderKL) -> LinearMap:
    """The map of a VAE, fitted on its device; the same each time. No generator is drawn from."""
    return fit(*fitting_cells(vae))


def fit(latents_NC: torch.Tensor, colours_N3: torch.Tensor) -> LinearMap:
    """The least-squares solution for N cells, float64 on the CPU.

    Of several solutions, as where a channel is constant, it is the one with the least norm.
    """
    with_one = torch.cat([latents_NC, torch.ones_like(latents_NC[:, :1])], dim=1)
    solution = torch.linalg.lstsq(with_one, colours_N3, driver="gelsd").solution
    return LinearMap(weight_3C=solution[:-1].T.contiguous(), bias_3=solution[-1])


@torch.no_grad()
def fitting_cells(vae: AutoencoderKL) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [N, C] of drawn pictures and the mean decoded colour [N, 3] of each of their cells.

    Both are float64 on the CPU.
    """
    shift, scale = latent_shift_and_scale(vae)
    latents, colours = [], []
    for number in range(_PICTURES):
        mean = encode_images(vae, _drawn(number)).mean
        cells = (mean - shift) * scale
        decoded = decode(vae, cells).cpu().double()
        latents.append(cells.double())
        colours.append(adaptive_avg_pool2d(decoded, (cells.shape[-2], cells.shape[-1])))
    return _by_cell(torch.cat(latents)), _by_cell(torch.cat(colours))


def _by_cell(maps_BXhw: torch.Tensor) -> torch.Tensor:
    """[B, X, h, w] → [B h w, X]."""
    return maps_BXhw.movedim(1, -1).flatten(0, 2)


def _drawn(number: int) -> torch.Tensor:
    """Discs of random colours that hide one another, [1, 3, H, W], -1 to 1.

    Many are small and few large, so that edges and areas of one colour are as frequent as in
    photographs (the "dead leaves" model of images: radii with a density of r⁻³).
    """
    draw = np.random.default_rng(number)
    picture = np.broadcast_to(draw.uniform(-1, 1, 3), (_SIDE_PX, _SIDE_PX, 3)).copy()
    y_px, x_px = np.mgrid[:_SIDE_PX, :_SIDE_PX]
    least, most = _LARGEST_PX**-2, _SMALLEST_PX**-2
    for share in draw.uniform(size=_DISCS):
        radius_px = (least + share * (most - least)) ** -0.5
        middle = draw.uniform(0, _SIDE_PX, 2)
        is_inside = (y_px - middle[0]) ** 2 + (x_px - middle[1]) ** 2 < radius_px**2
        picture[is_inside] = draw.uniform(-1, 1, 3)
    return torch.from_numpy(picture).float().movedim(-1, 0)[None]
