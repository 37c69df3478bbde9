"""Points and velocities on the lines from data to noise.

Letters: B samples, C channels, H × W latent cells.
A point on the line from data to noise is (1 - sigma) · latents + sigma · noise. The velocity along
it is noise - latents.
"""

import torch


def noisy_latents(
    latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, sigmas_B: torch.Tensor
) -> torch.Tensor:
    """The points at sigma (0 data, 1 noise) between data and noise."""
    sigmas = sigmas_B.view(-1, 1, 1, 1).to(latents_BCHW)
    return (1 - sigmas) * latents_BCHW + sigmas * noise_BCHW


def velocity_target(latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor) -> torch.Tensor:
    """What the predicted velocity is compared with."""
    return noise_BCHW - latents_BCHW
