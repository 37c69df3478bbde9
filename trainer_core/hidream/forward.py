"""The forward of HiDream-I1 over diffusers' modules and weights.

diffusers' own forward has no argument for pads and discards the load-balancing loss. Here every
layer takes the pads as an argument and returns the loss. So gradient checkpointing recomputes a
block from the same inputs, and no module keeps state between two calls. The numbers are the same as
in diffusers 0.42.1; tests compare the two.

Letters: B samples, C channels, H × W latent cells, P image tokens, T text tokens, S both, F width,
p cells along a patch's side (2).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import (
    HiDreamImageSingleTransformerBlock,
    HiDreamImageTransformerBlock,
    MOEFeedForwardSwiGLU,
)
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer_core.hidream.pads import Pads, attend_double, attend_single
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
    noisy_BCHW: torch.Tensor,
    timesteps_B: torch.Tensor,
    text: TextEmbeddings,
    *,
    padding: Padding,
    gradient_checkpointing_interval: int | None,
) -> Prediction:
    """Predict the velocity from data to noise, with gradients.

    Args:
        transformer: in ``train()`` mode if gradients are needed. In eval mode the routed experts
            use diffusers' inference path, which has no gradient.
        noisy_BCHW: latents of one bucket, with even sides, in the type of the weights.
        timesteps_B: 1000 · sigma, not rounded.
        text: B rows, in the type of the latents.
        padding: whether latents that are not square are padded.
        gradient_checkpointing_interval: block i is recomputed in the backward pass if i is a
            multiple of it; None: no block is. Double-stream blocks are counted from 0, and
            single-stream blocks follow.

    Raises:
        ValueError: batch sizes differ, the text has fewer Llama layers than the network reads, the
            sides are odd, or there are more patches than ``max_seq``.
    """
    _check(transformer, noisy_BCHW, timesteps_B, text)
    tokens, ids, pads = _patches(transformer, noisy_BCHW, padding)
    image = transformer.x_embedder(tokens)
    # The embedding is computed from fp32: a bf16 timestep can be off by 2.
    temb = transformer.t_embedder(timesteps_B.float(), noisy_BCHW.dtype)
    temb = temb + transformer.p_embedder(text.pooled)
    captions = _captions(transformer, text)
    rope = transformer.pe_embedder(_with_text_ids(ids, captions))
    run = _runner(gradient_checkpointing_interval)
    hidden, losses = _blocks(transformer, image, captions, _Shared(temb, rope, pads), run)
    output = transformer.final_layer(hidden, temb)
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
) -> tuple[torch.Tensor, torch.Tensor, Pads | None]:
    """Tokens [B, P, p·p·C], their positions [B, P, 3], and the pads, if any, as the last token."""
    B, C, H, W = noisy_BCHW.shape
    patch = int(transformer.config.patch_size)
    rows, columns = H // patch, W // patch
    cells = noisy_BCHW.reshape(B, C, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    tokens = cells.reshape(B, rows * columns, patch * patch * C)
    ids = torch.zeros(rows, columns, 3, device=noisy_BCHW.device)
    ids[..., 1] = torch.arange(rows, device=noisy_BCHW.device)[:, None]
    ids[..., 2] = torch.arange(columns, device=noisy_BCHW.device)[None, :]
    ids = ids.reshape(1, rows * columns, 3).expand(B, -1, -1)
    count = 0
    if padding == "stock" and H != W:
        count = int(transformer.max_seq) - rows * columns
    if count < 0:
        raise ValueError(
            f"{rows * columns} patches are more than the model's max_seq {transformer.max_seq}"
        )
    if count == 0:
        return tokens, ids, None
    tokens, ids = functional.pad(tokens, (0, 0, 0, 1)), functional.pad(ids, (0, 0, 0, 1))
    return tokens, ids, Pads.at_the_end_of(tokens, count)


def _image_of(output_BPF: torch.Tensor, shape: torch.Size, patch: int) -> torch.Tensor:
    """The last layer's tokens as latents of ``shape``; tokens after the patches are dropped."""
    B, C, H, W = shape
    rows, columns = H // patch, W // patch
    cells = output_BPF[:, : rows * columns].reshape(B, rows, columns, patch, patch, C)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(B, C, H, W)


def _captions(
    transformer: HiDreamImageTransformer2DModel, text: TextEmbeddings
) -> list[torch.Tensor]:
    """Llama's hidden state for each block [B, T, F], and T5's output last."""
    layers = transformer.config.llama_layers
    captions = [
        transformer.caption_projection[i](text.llama[:, layer]) for i, layer in enumerate(layers)
    ]
    return [*captions, transformer.caption_projection[-1](text.t5)]


def _with_text_ids(ids_BP3: torch.Tensor, captions: list[torch.Tensor]) -> torch.Tensor:
    """The positions of the image tokens, followed by position 0 for a block's text tokens."""
    length = sum(captions[i].shape[1] for i in (-1, -2, 0))
    return functional.pad(ids_BP3, (0, 0, 0, length))


class _Shared(NamedTuple):
    """Inputs that all blocks of a forward share."""

    temb: torch.Tensor
    """[B, F]: timestep and pooled text."""
    rope: torch.Tensor
    pads: Pads | None


_Run = Callable[..., Any]
"""Runs block number ``args[0]`` as ``args[1](*args[2:])``."""


def _runner(gradient_checkpointing_interval: int | None) -> _Run:
    def run(number: int, forward: Callable[..., Any], *inputs: Any) -> Any:
        if gradient_checkpointing_interval is None or number % gradient_checkpointing_interval:
            return forward(*inputs)
        if not torch.is_grad_enabled():
            return forward(*inputs)
        # preserve_rng_state: dropout draws the same numbers in the recomputation.
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=True)

    return run


def _blocks(
    transformer: HiDreamImageTransformer2DModel,
    image: torch.Tensor,
    captions: list[torch.Tensor],
    shared: _Shared,
    run: _Run,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The image tokens after all blocks, and the loss of each layer whose gate computes one.

    The T5 caption and the last Llama caption go through all blocks. Each block also gets the Llama
    caption of its own layer.
    """
    losses: list[torch.Tensor | None] = []
    number = 0
    text = torch.cat([captions[-1], captions[-2]], dim=1)
    T = text.shape[1]
    for holder in transformer.double_stream_blocks:
        block_text = torch.cat([text, captions[number]], dim=1)
        image, text, loss = run(number, _double_stream, holder.block, image, block_text, shared)
        text = text[:, :T]
        losses.append(loss)
        number += 1
    P = image.shape[1]
    hidden = torch.cat([image, text], dim=1)
    S = hidden.shape[1]
    for holder in transformer.single_stream_blocks:
        hidden = torch.cat([hidden, captions[number]], dim=1)
        hidden, loss = run(number, _single_stream, holder.block, hidden, shared)
        hidden = hidden[:, :S]
        losses.append(loss)
        number += 1
    return hidden[:, :P], [loss for loss in losses if loss is not None]


def _double_stream(
    block: HiDreamImageTransformerBlock,
    image: torch.Tensor,
    text: torch.Tensor,
    shared: _Shared,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """diffusers' ``HiDreamImageTransformerBlock``: image and text have separate weights."""
    temb, rope, pads = shared
    dtype = image.dtype
    modulation = block.adaLN_modulation(temb)[:, None].chunk(12, dim=-1)
    shift_i, scale_i, gate_i, shift_ff_i, scale_ff_i, gate_ff_i = modulation[:6]
    shift_t, scale_t, gate_t, shift_ff_t, scale_ff_t, gate_ff_t = modulation[6:]

    normed_i = block.norm1_i(image).to(dtype) * (1 + scale_i) + shift_i
    normed_t = block.norm1_t(text).to(dtype) * (1 + scale_t) + shift_t
    attended_i, attended_t = attend_double(block.attn1, normed_i, normed_t, rope, pads)
    image = gate_i * attended_i + image
    text = gate_t * attended_t + text

    normed_i = block.norm3_i(image).to(dtype) * (1 + scale_ff_i) + shift_ff_i
    normed_t = block.norm3_t(text).to(dtype) * (1 + scale_ff_t) + shift_ff_t
    fed_i, loss = _feed_forward(block.ff_i, normed_i, pads)
    fed_i = gate_ff_i * fed_i
    fed_t = gate_ff_t * block.ff_t(normed_t)
    return fed_i + image, fed_t + text, loss


def _single_stream(
    block: HiDreamImageSingleTransformerBlock,
    hidden: torch.Tensor,
    shared: _Shared,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """diffusers' ``HiDreamImageSingleTransformerBlock``: image and text as one sequence."""
    temb, rope, pads = shared
    dtype = hidden.dtype
    modulation = block.adaLN_modulation(temb)[:, None].chunk(6, dim=-1)
    shift, scale, gate, shift_ff, scale_ff, gate_ff = modulation

    normed = block.norm1_i(hidden).to(dtype) * (1 + scale) + shift
    hidden = gate * attend_single(block.attn1, normed, rope, pads) + hidden

    normed = block.norm3_i(hidden).to(dtype) * (1 + scale_ff) + shift_ff
    fed, loss = _feed_forward(block.ff_i, normed.to(dtype), pads)
    return gate_ff * fed + hidden, loss


def _feed_forward(
    layer: nn.Module, hidden_BSF: torch.Tensor, pads: Pads | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """diffusers' ``MOEFeedForwardSwiGLU``, or a plain layer where the model has no experts."""
    if not isinstance(layer, MOEFeedForwardSwiGLU):
        return layer(hidden_BSF), None
    dtype = hidden_BSF.dtype
    chosen_NK, weights_NK, loss = layer.gate(hidden_BSF, pads)
    chosen = chosen_NK.view(-1)
    tokens = hidden_BSF.view(-1, hidden_BSF.shape[-1])
    if layer.training:
        tokens = tokens.repeat_interleave(layer.num_activated_experts, dim=0)
        routed = torch.empty_like(tokens, dtype=dtype)
        for i, expert in enumerate(layer.experts):
            routed[chosen == i] = expert(tokens[chosen == i]).to(dtype)
        routed = (routed.view(*weights_NK.shape, -1) * weights_NK.unsqueeze(-1)).sum(dim=1)
        routed = routed.view(*hidden_BSF.shape).to(dtype)
    else:
        routed = layer.moe_infer(tokens, chosen, weights_NK.view(-1, 1)).view(*hidden_BSF.shape)
    return routed + layer.shared_experts(hidden_BSF), loss
