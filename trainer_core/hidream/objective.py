"""Noisy latents and velocity targets of flow matching.

Letters: B samples, C channels, H × W latent cells.
Noisy latents are (1 - sigma) · latents + sigma · noise. The velocity is noise - latents.
"""

import torch


def noisy_latents(
    latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, sigmas_B: torch.Tensor
) -> torch.Tensor:
    """Latents with the share ``sigmas_B`` of noise: 0 is data, 1 is noise."""
    sigmas = sigmas_B.view(-1, 1, 1, 1).to(latents_BCHW)
    return (1 - sigmas) * latents_BCHW + sigmas * noise_BCHW


def velocity_target(latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor) -> torch.Tensor:
    """The velocity that the network has to predict."""
    return noise_BCHW - latents_BCHW
