"""The network of HiDream-I1 as a velocity field, as a function of the stock transformer.

Letters: B samples, C channels, H × W latent cells, S patches, p = 2 cells along a patch's side.
A point on the line from data to noise is (1 - sigma) · latents + sigma · noise, the velocity along
it is noise - latents. The network's own sign is the opposite one.
"""

from typing import Any, Literal

import torch
from diffusers import HiDreamImageTransformer2DModel
from torch.nn import functional

from trainer_core.hidream.pads import collapse_pads
from trainer_core.hidream.text import TextEmbeddings

Padding = Literal["exact", "stock"]
"""``stock``: what is not square counts as padded to the longest sequence, as in the pipeline."""


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
    padding: Padding = "exact",
) -> torch.Tensor:
    """Velocity [B, C, H, W] towards noise, with gradients to everything that asks for them.

    Square latents go through the stock 4D call. Others go as a sequence of exactly their patches:
    the stock call pads them to the longest sequence, and the padding takes attention. With
    ``padding="stock"`` one token stands for all of that padding and the numbers are the stock ones.

    Args:
        transformer: in ``train()`` mode, also to measure: in eval mode diffusers lets no gradient
            through the routed experts. Both modes give the same numbers.
        noisy_BCHW: all of one bucket; even sides; any float type that the weights have.
        timesteps_B: 1000 · sigma, fp32, not rounded.
        text: B rows, in the dtype of the latents.
        padding: how what is not square is carried.

    Raises:
        ValueError: batch sizes differ, the text has fewer Llama layers than the network reads, the
            sides are odd, or the padded sequence would be longer than the longest.
    """
    B, C, H, W = noisy_BCHW.shape
    patch = int(transformer.config.patch_size)
    _check(transformer, noisy_BCHW, timesteps_B, text)
    rows, columns = H // patch, W // patch
    if H == W:
        spatial: dict[str, Any] = {"hidden_states": noisy_BCHW}
    else:
        pads = 0
        if padding == "stock":
            pads = int(transformer.max_seq) - rows * columns
            if pads < 0:
                raise ValueError(f"{rows * columns} patches, the model takes {transformer.max_seq}")
        if pads:
            collapse_pads(transformer)
        spatial = _sequence(noisy_BCHW, patch, pads)
    output: torch.Tensor = transformer(
        **spatial,
        # A bf16 timestep would be off by up to 2: the embedding is computed from fp32.
        timesteps=timesteps_B.float(),
        encoder_hidden_states_t5=text.t5,
        # Layers first: a batch of as many samples as layers would pass unnoticed the other way.
        encoder_hidden_states_llama3=text.llama.transpose(0, 1),
        pooled_embeds=text.pooled,
        return_dict=False,
    )[0]
    if transformer.training:
        output = _image_of(output[:, :, : rows * columns], rows, columns, patch)
    return -output.view(B, C, H, W)


def _check(
    transformer: HiDreamImageTransformer2DModel,
    noisy_BCHW: torch.Tensor,
    timesteps_B: torch.Tensor,
    text: TextEmbeddings,
) -> None:
    B, _, H, W = noisy_BCHW.shape
    patch = transformer.config.patch_size
    if len(text) != B or timesteps_B.shape != (B,):
        raise ValueError(f"{B} latents, {tuple(timesteps_B.shape)} timesteps, {len(text)} texts")
    layers = text.llama.shape[1]
    needed = max(transformer.config.llama_layers) + 1
    if layers < needed:
        raise ValueError(f"{layers} Llama layers in the text, the network reads {needed}")
    if H % patch or W % patch:
        raise ValueError(f"latents of {H} by {W} cells cannot be cut into patches of {patch}")


def _sequence(noisy_BCHW: torch.Tensor, patch: int, pads: int = 0) -> dict[str, Any]:
    """The arguments of the stock 3D call: patches, their places, sizes and a mask.

    With ``pads`` one more token of zeros at place 0 stands for so many of them; the mask is then
    the one that ``pads.collapse_pads`` explains.
    """
    B, C, H, W = noisy_BCHW.shape
    rows, columns = H // patch, W // patch
    device = noisy_BCHW.device
    cells = noisy_BCHW.reshape(B, C, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    tokens = cells.reshape(B, rows * columns, patch * patch * C)
    ids = torch.zeros(rows, columns, 3, device=device)
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)[None, :]
    ids = ids.reshape(1, rows * columns, 3).expand(B, -1, -1)
    mask = noisy_BCHW.new_ones(B, rows * columns)
    if pads:
        tokens, ids = functional.pad(tokens, (0, 0, 0, 1)), functional.pad(ids, (0, 0, 0, 1))
        mask = functional.pad(mask.int(), (0, 1), value=-pads)
    return {
        "hidden_states": tokens,
        "hidden_states_masks": mask,
        "img_ids": ids,
        "img_sizes": [(rows, columns)] * B,  # on the host: eval mode cuts by them
    }


def _image_of(output_BCSp: torch.Tensor, rows: int, columns: int, patch: int) -> torch.Tensor:
    """The train-mode layout [B, C, S, p·p] as an image: what diffusers does itself in eval mode."""
    B, C, _, _ = output_BCSp.shape
    cells = output_BCSp.reshape(B, C, rows, columns, patch, patch).permute(0, 1, 2, 4, 3, 5)
    return cells.reshape(B, C, rows * patch, columns * patch)
