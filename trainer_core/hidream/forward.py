"""The forward of HiDream-I1 over diffusers' modules and weights.

diffusers' own forward has no argument for pads and discards the load-balancing loss. Here every
layer takes the pads as an argument and returns the loss. So gradient checkpointing recomputes a
block from the same inputs, and no module keeps state between two calls. The numbers are the same as
in diffusers 0.42.1; tests compare the two.

Letters: B samples, C channels, H × W latent cells, P image tokens, T text tokens, S both, F width,
p cells along a patch's side (2).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from diffusers import HiDreamImageTransformer2DModel
from torch.nn import functional

from trainer_core.adapters.factors import AdapterFactors
from trainer_core.hidream.blocks import Blocks, Conditions, NoteExperts
from trainer_core.hidream.pads import Pads
from trainer_core.hidream.text import TextEmbeddings

Padding = Literal["exact", "stock"]
"""``exact``: only the patches. ``stock``: latents that are not square are padded to the longest
sequence, as in diffusers' pipeline."""


class Prediction(NamedTuple):
    """The outputs of a forward."""

    velocity_BCHW: torch.Tensor
    balance: torch.Tensor | None
    """Load-balancing loss of the experts, the sum over the layers, 0-dimensional, at least fp32.
    None where no gate computes it."""


def predict(
    transformer: HiDreamImageTransformer2DModel,
    blocks: Blocks,
    noisy_BCHW: torch.Tensor,
    timesteps_B: torch.Tensor,
    text: TextEmbeddings,
    *,
    padding: Padding,
    adapter: AdapterFactors,
    has_balance: bool,
    note_experts: NoteExperts | None = None,
) -> Prediction:
    """Predict the velocity from data to noise, with gradients.

    Args:
        transformer: the layers before and after the blocks are used.
        blocks: compute the transformer's blocks.
        noisy_BCHW: latents of one bucket, with even sides, in the type of the weights.
        timesteps_B: 1000 · sigma, not rounded.
        text: B rows, in the type of the latents.
        padding: whether latents that are not square are padded.
        adapter: its matrices, for fused blocks.
        has_balance: the blocks compute the load-balancing loss. It counts all tokens that diffusers
            routes, so then each block computes them all, also those whose outputs are dropped.
        note_experts: called by each layer of experts, in order; only without gradients, where no
            block is computed twice.

    Raises:
        ValueError: batch sizes differ, the text has fewer Llama layers than the network reads, the
            sides are odd, or there are more patches than ``max_seq``.
    """
    _check(transformer, noisy_BCHW, timesteps_B, text)
    tokens, pads = _patches(transformer, noisy_BCHW, padding)
    image = transformer.x_embedder(tokens)
    # The embedding is computed from fp32: a bf16 timestep can be off by 2.
    temb = transformer.t_embedder(timesteps_B.float(), noisy_BCHW.dtype)
    temb = temb + transformer.p_embedder(text.pooled)
    rope = _rope(transformer, noisy_BCHW, pads is not None, _text_tokens(text))
    conditions = Conditions(_modulation_of(transformer, temb), rope, pads, adapter, note_experts)
    image, losses = _blocks(transformer, blocks, image, text, conditions, has_balance=has_balance)
    output = transformer.final_layer(image, temb)
    # The network predicts the velocity from noise to data.
    velocity = -_image_of(output, noisy_BCHW.shape, int(transformer.config.patch_size))
    return Prediction(velocity, torch.stack(losses).sum() if losses else None)


def _check(
    transformer: HiDreamImageTransformer2DModel,
    noisy_BCHW: torch.Tensor,
    timesteps_B: torch.Tensor,
    text: TextEmbeddings,
) -> None:
    B, _, H, W = noisy_BCHW.shape
    patch = transformer.config.patch_size
    if len(text) != B or timesteps_B.shape != (B,):
        raise ValueError(
            f"batch sizes differ: {B} latents, timesteps of shape {tuple(timesteps_B.shape)}, "
            f"{len(text)} texts"
        )
    layers = text.llama.shape[1]
    needed = max(transformer.config.llama_layers) + 1
    if layers < needed:
        raise ValueError(f"{layers} Llama layers in the text, the network reads {needed}")
    if H % patch or W % patch:
        raise ValueError(f"latents of {H} by {W} cells cannot be cut into patches of {patch}")


def _patches(
    transformer: HiDreamImageTransformer2DModel, noisy_BCHW: torch.Tensor, padding: Padding
) -> tuple[torch.Tensor, Pads | None]:
    """Tokens [B, P, p·p·C], and the pads, if any, as the last token."""
    B, C, H, W = noisy_BCHW.shape
    patch = int(transformer.config.patch_size)
    rows, columns = H // patch, W // patch
    cells = noisy_BCHW.reshape(B, C, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    tokens = cells.reshape(B, rows * columns, patch * patch * C)
    count = 0
    if padding == "stock" and H != W:
        count = int(transformer.max_seq) - rows * columns
    if count < 0:
        raise ValueError(
            f"{rows * columns} patches are more than the model's max_seq {transformer.max_seq}"
        )
    if count == 0:
        return tokens, None
    tokens = functional.pad(tokens, (0, 0, 0, 1))
    return tokens, Pads.at_the_end_of(tokens, count)


def _image_of(output_BPF: torch.Tensor, shape: torch.Size, patch: int) -> torch.Tensor:
    """The last layer's tokens as latents of ``shape``; tokens after the patches are dropped."""
    B, C, H, W = shape
    rows, columns = H // patch, W // patch
    cells = output_BPF[:, : rows * columns].reshape(B, rows, columns, patch, patch, C)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(B, C, H, W)


def _caption(
    transformer: HiDreamImageTransformer2DModel, text: TextEmbeddings, number: int
) -> torch.Tensor:
    """Llama's hidden state for a block, [B, T, F]."""
    layer = transformer.config.llama_layers[number]
    caption: torch.Tensor = transformer.caption_projection[number](text.llama[:, layer])
    return caption


def _text_tokens(text: TextEmbeddings) -> int:
    """Tokens of T5, of Llama's last layer, and of a block's own Llama layer."""
    return text.t5.shape[1] + 2 * text.llama.shape[2]


def _rope(
    transformer: HiDreamImageTransformer2DModel,
    noisy_BCHW: torch.Tensor,
    has_pad: bool,
    text_tokens: int,
) -> torch.Tensor:
    """Rotary embedding, [1, S, 1, D / 2, 2, 2]: of the patches, a pad and the text, fp32.

    A pad and the text tokens have position 0. It is a function of the shape alone, but it is not
    kept: CUDA graphs of other shapes would write into its memory, which they share.
    """
    H, W = noisy_BCHW.shape[-2:]
    patch, device = int(transformer.config.patch_size), noisy_BCHW.device
    rows, columns = H // patch, W // patch
    ids = torch.zeros(rows, columns, 3, device=device)
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)[None, :]
    ids = functional.pad(ids.reshape(1, rows * columns, 3), (0, 0, 0, has_pad + text_tokens))
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        rope: torch.Tensor = transformer.pe_embedder(ids)
    return rope


def _modulation_of(
    transformer: HiDreamImageTransformer2DModel, temb_BF: torch.Tensor
) -> Callable[[int], torch.Tensor]:
    """Computes shifts, scales and gates of a block, side by side."""
    holders = (*transformer.double_stream_blocks, *transformer.single_stream_blocks)

    def modulation(number: int) -> torch.Tensor:
        found: torch.Tensor = holders[number].block.adaLN_modulation(temb_BF)
        return found

    return modulation


def _blocks(
    transformer: HiDreamImageTransformer2DModel,
    blocks: Blocks,
    image: torch.Tensor,
    text: TextEmbeddings,
    conditions: Conditions,
    *,
    has_balance: bool,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The image tokens after all blocks, and the loss of each layer whose gate computes one.

    The T5 caption and the last Llama caption go through all blocks. Each block also gets the Llama
    caption of its own layer, as its tail. After the last block only the image is read, so there
    the text belongs to the tail.

    Captions are projected just before the block that needs them, as the modulation is.
    """
    doubles = len(transformer.double_stream_blocks)
    last = doubles + len(transformer.single_stream_blocks) - 1
    losses: list[torch.Tensor | None] = []
    t5 = transformer.caption_projection[-1](text.t5)
    last_caption = _caption(transformer, text, last)
    live = torch.cat([t5, last_caption], dim=1)
    T = live.shape[1]
    for number in range(doubles):
        live, tail = _split(live, _caption(transformer, text, number), has_balance)
        image, live, loss = blocks.double(number, image, live, tail, conditions)
        live = live[:, :T]
        losses.append(loss)
    P = image.shape[1]
    hidden = torch.cat([image, live], dim=1)
    S = P + T
    for number in range(doubles, last + 1):
        caption = last_caption if number == last else _caption(transformer, text, number)
        hidden, tail = _split(hidden, caption, has_balance)
        if number == last and tail is not None:
            hidden, tail = hidden[:, :P], torch.cat([hidden[:, P:], tail], dim=1)
        hidden, loss = blocks.single(number, hidden, tail, conditions)
        hidden = hidden[:, :S]
        losses.append(loss)
    return hidden[:, :P], [loss for loss in losses if loss is not None]


def _split(
    live: torch.Tensor, caption: torch.Tensor, has_balance: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Live tokens and tail: the caption is the tail, unless the loss counts its tokens too."""
    return (torch.cat([live, caption], dim=1), None) if has_balance else (live, caption)
