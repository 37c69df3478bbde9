"""The flow-matching objective of HiDream-I1, as a function of the stock transformer.

Letters: B samples, C channels, H × W latent cells, S patches, p = 2 cells along a patch's side.
A point on the line from data to noise is (1 - sigma) · latents + sigma · noise, the velocity along
it is noise - latents. The network's own sign is the opposite one.
"""

from typing import Any

import torch
from diffusers import HiDreamImageTransformer2DModel

from trainer_core.hidream.text import TextEmbeddings


def noisy_latents(
    latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, sigmas_B: torch.Tensor
) -> torch.Tensor:
    """The points at sigma (0 data, 1 noise) between data and noise."""
    sigmas = sigmas_B.view(-1, 1, 1, 1).to(latents_BCHW)
    return (1 - sigmas) * latents_BCHW + sigmas * noise_BCHW


def velocity_target(latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor) -> torch.Tensor:
    """What ``predict_velocity`` is compared with."""
    return noise_BCHW - latents_BCHW


def predict_velocity(
    transformer: HiDreamImageTransformer2DModel,
    noisy_BCHW: torch.Tensor,
    timesteps_B: torch.Tensor,
    text: TextEmbeddings,
) -> torch.Tensor:
    """Velocity [B, C, H, W] towards noise, with gradients to everything that asks for them.

    Square latents go through the stock 4D call. Others go as a sequence of exactly their patches:
    the stock call pads them to the longest sequence, and the padding takes attention.

    Args:
        transformer: in ``train()`` mode, also to measure: in eval mode diffusers lets no gradient
            through the routed experts. Both modes give the same numbers.
        noisy_BCHW: all of one bucket; even sides.
        timesteps_B: 1000 · sigma, fp32, not rounded.
        text: B rows, in the dtype of the latents.

    Raises:
        ValueError: batch sizes differ, or the sides are odd.
    """
    B, C, H, W = noisy_BCHW.shape
    patch = int(transformer.config.patch_size)
    if len(text) != B or timesteps_B.shape != (B,):
        raise ValueError(f"{B} latents, {tuple(timesteps_B.shape)} timesteps, {len(text)} texts")
    if H % patch or W % patch:
        raise ValueError(f"latents of {H} by {W} cells cannot be cut into patches of {patch}")
    spatial = {"hidden_states": noisy_BCHW} if H == W else _sequence(noisy_BCHW, patch)
    output: torch.Tensor = transformer(
        **spatial,
        timesteps=timesteps_B.float(),
        encoder_hidden_states_t5=text.t5,
        # Layers first: a batch of as many samples as layers would pass unnoticed the other way.
        encoder_hidden_states_llama3=text.llama.transpose(0, 1),
        pooled_embeds=text.pooled,
        return_dict=False,
    )[0]
    if transformer.training:
        output = _image_of(output, H // patch, W // patch, patch)
    return -output.view(B, C, H, W)


def flow_loss(prediction_BCHW: torch.Tensor, target_BCHW: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each sample, [B], in fp32."""
    error = prediction_BCHW.float() - target_BCHW.float()
    return error.square().mean(dim=(1, 2, 3))


def _sequence(noisy_BCHW: torch.Tensor, patch: int) -> dict[str, Any]:
    """The arguments of the stock 3D call: patches, their places, sizes and an all-ones mask."""
    B, C, H, W = noisy_BCHW.shape
    rows, columns = H // patch, W // patch
    device = noisy_BCHW.device
    tokens = noisy_BCHW.reshape(B, C, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    ids = torch.zeros(rows, columns, 3, device=device)
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)[None, :]
    return {
        "hidden_states": tokens.reshape(B, rows * columns, patch * patch * C),
        "hidden_states_masks": noisy_BCHW.new_ones(B, rows * columns),
        "img_ids": ids.reshape(1, rows * columns, 3).expand(B, -1, -1),
        "img_sizes": [(rows, columns)] * B,  # on the host: eval mode cuts by them
    }


def _image_of(output_BCSp: torch.Tensor, rows: int, columns: int, patch: int) -> torch.Tensor:
    """The train-mode layout [B, C, S, p·p] as an image: what diffusers does itself in eval mode."""
    B, C, _, _ = output_BCSp.shape
    cells = output_BCSp.reshape(B, C, rows, columns, patch, patch).permute(0, 1, 2, 4, 3, 5)
    return cells.reshape(B, C, rows * patch, columns * patch)
