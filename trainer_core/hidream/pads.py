"""The padding of the stock pipeline, at the cost of one token.

diffusers pads latents that are not square with zero tokens up to the longest sequence, and its mask
only multiplies their keys by zero: each still has a score of 0, so it takes attention and gives its
value. All pads of a sample are alike at the start (zero latents, place 0) and stay alike in every
layer, because nothing tells them apart. So one of them with the score log n, and n of them with the
score 0, are the same sum; and the same gradient, since the one token's derivative is taken n times.

Letters: B samples, S tokens, A heads, D width of a head.
"""

from typing import Any

import torch
from diffusers import HiDreamImageTransformer2DModel
from diffusers.models.transformers.transformer_hidream_image import (
    HiDreamAttention,
    HiDreamAttnProcessor,
    apply_rope,
)
from torch.nn import functional


def collapse_pads(transformer: HiDreamImageTransformer2DModel) -> None:
    """Make the attention layers take a mask of whole numbers; any other is treated as before.

    In such a mask 1 is a token, and -n a pad that stands for n of them. It stays this way: a block
    that is computed again for its gradient has to find the same attention.
    """
    for part in transformer.modules():
        if isinstance(part, HiDreamAttention) and not isinstance(part.processor, CollapsedPads):
            part.set_processor(CollapsedPads())


def real_tokens(mask_BS: torch.Tensor | None) -> torch.Tensor | None:
    """Which tokens are no pads, as booleans; None: all of them."""
    return None if mask_BS is None else mask_BS > 0


class CollapsedPads:
    """Attention as in diffusers 0.42.1, with the score of each pad raised by log n."""

    def __init__(self) -> None:
        self._stock = HiDreamAttnProcessor()

    def __call__(
        self,
        attn: HiDreamAttention,
        hidden_states: torch.Tensor,
        hidden_states_masks: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        """One tensor in a single-stream block; image's and text's in a double-stream one."""
        # The type is known without asking the device, the values are not.
        if hidden_states_masks is None or hidden_states_masks.is_floating_point():
            return self._stock(
                attn, hidden_states, hidden_states_masks, encoder_hidden_states, image_rotary_emb
            )
        dtype, num_image = hidden_states.dtype, hidden_states.shape[1]
        query = attn.q_rms_norm(attn.to_q(hidden_states)).to(dtype)
        key = attn.k_rms_norm(attn.to_k(hidden_states)).to(dtype)
        value = attn.to_v(hidden_states)
        key = key * (hidden_states_masks > 0).to(key.dtype).unsqueeze(-1)
        if not attn.single:
            text = encoder_hidden_states
            query_t = attn.q_rms_norm_t(attn.to_q_t(text)).to(dtype)
            key_t = attn.k_rms_norm_t(attn.to_k_t(text)).to(dtype)
            query, key = torch.cat([query, query_t], dim=1), torch.cat([key, key_t], dim=1)
            value = torch.cat([value, attn.to_v_t(text)], dim=1)
        query_BSAD, key_BSAD, value_BSAD = (
            each.unflatten(-1, (attn.heads, -1)) for each in (query, key, value)
        )
        query_BSAD, key_BSAD = _rotated(query_BSAD, key_BSAD, image_rotary_emb)
        attended_BASD = functional.scaled_dot_product_attention(
            query_BSAD.transpose(1, 2),
            key_BSAD.transpose(1, 2),
            value_BSAD.transpose(1, 2),
            attn_mask=_raise_of(hidden_states_masks, query_BSAD),
        )
        attended = attended_BASD.transpose(1, 2).flatten(2).to(query_BSAD.dtype)
        if attn.single:
            return attn.to_out(attended)
        return attn.to_out(attended[:, :num_image]), attn.to_out_t(attended[:, num_image:])


def _rotated(
    query_BSAD: torch.Tensor, key_BSAD: torch.Tensor, rope: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both turned by their places, over as much of the heads' width as the model turns."""
    width = 2 * rope.shape[-3]
    turned = apply_rope(query_BSAD[..., :width], key_BSAD[..., :width], rope)
    rest = query_BSAD[..., width:], key_BSAD[..., width:]
    query, key = (torch.cat(pair, dim=-1) for pair in zip(turned, rest, strict=True))
    return query, key


def _raise_of(mask_BS: torch.Tensor, query_BSAD: torch.Tensor) -> torch.Tensor:
    """What is added to the scores [B, 1, 1, S]: log n at a pad, 0 elsewhere (also at the text).

    In the type of the scores, as the fast kernels want it: bf16 changes n by up to 3 %.
    """
    counts = torch.where(mask_BS < 0, -mask_BS, 1)
    raised = counts.to(torch.promote_types(query_BSAD.dtype, torch.float32)).log()
    raised = functional.pad(raised, (0, query_BSAD.shape[1] - raised.shape[1]))
    return raised.to(query_BSAD.dtype)[:, None, None, :]
