"""Noisy latents and velocity targets of flow matching.

Letters: B samples, C channels, H × W latent cells.
Noisy latents are (1 - sigma) · latents + sigma · noise. The velocity is noise - latents.
"""

import torch


def write_noisy_and_target(
    latents_BCHW: torch.Tensor,
    noise_BCHW: torch.Tensor,
    sigmas_B: torch.Tensor,
    *,
    noisy_BCHW: torch.Tensor,
    target_BCHW: torch.Tensor,
) -> None:
    """Write what the network gets and the velocity that it has to predict.

    No memory is taken for numbers in between: for a batch of small pictures that costs more than
    the arithmetic.

    Args:
        latents_BCHW: of the data; overwritten.
        noise_BCHW: overwritten.
        sigmas_B: share of noise: 0 is data, 1 is noise.
        noisy_BCHW: gets the noisy latents, in any type.
        target_BCHW: gets the velocity.
    """
    torch.sub(noise_BCHW, latents_BCHW, out=target_BCHW)
    sigmas = sigmas_B.view(-1, 1, 1, 1).to(latents_BCHW)
    noisy_BCHW.copy_(latents_BCHW.mul_(1 - sigmas).add_(noise_BCHW.mul_(sigmas)))
