"""What the network gets and has to predict, in new tensors."""

import torch

from trainer_core.hidream.objective import write_noisy_and_target


def noisy_and_target(
    latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, sigmas_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``write_noisy_and_target`` writes them; changes nothing that it is given."""
    noisy_BCHW, target_BCHW = torch.empty_like(latents_BCHW), torch.empty_like(latents_BCHW)
    write_noisy_and_target(
        latents_BCHW.clone(),
        noise_BCHW.clone(),
        sigmas_B,
        noisy_BCHW=noisy_BCHW,
        target_BCHW=target_BCHW,
    )
    return noisy_BCHW, target_BCHW
