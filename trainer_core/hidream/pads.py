"""Attention, with one token in place of all pads of diffusers' pipeline.

diffusers pads latents that are not square with zero tokens up to the longest sequence. Its mask
multiplies the keys of the pads by zero, so their attention scores are 0 instead of -inf: pads take
part in attention. All pads of a sample start equal (zero latents, position 0) and stay equal in
every layer. Therefore one token with the score log n contributes the same to a softmax as n tokens
with the score 0. The gradient is the same too.

Letters: B samples, S tokens, P image tokens with the pad, A heads, D width of a head.
"""

from dataclasses import dataclass

import torch
from diffusers.models.transformers.transformer_hidream_image import HiDreamAttention, apply_rope
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Pads:
    """The last image token of each sample represents all its pads."""

    is_real_BP: torch.Tensor
    """Booleans: False at the pad token."""
    score_BP: torch.Tensor
    """Added to the attention score of each token: log n at the pad, 0 elsewhere; at least fp32."""

    @classmethod
    def at_the_end_of(cls, tokens_BPF: torch.Tensor, count: int) -> "Pads":
        """The last token of ``tokens_BPF`` represents ``count`` pads."""
        B, P, _ = tokens_BPF.shape
        device = tokens_BPF.device
        is_real_BP = torch.ones(B, P, dtype=torch.bool, device=device)
        is_real_BP[:, -1] = False
        wide = torch.promote_types(tokens_BPF.dtype, torch.float32)
        counts_BP = torch.where(is_real_BP, 1, count).to(wide)
        return cls(is_real_BP, counts_BP.log())

    def real_tokens(self, length: int, dtype: torch.dtype) -> torch.Tensor:
        """[B, S, 1]: 1 at each real token of a sequence, 0 at the pad. Text comes last."""
        P = self.is_real_BP.shape[1]
        return functional.pad(self.is_real_BP.to(dtype), (0, length - P), value=1).unsqueeze(-1)

    def scores(self, length: int, dtype: torch.dtype) -> torch.Tensor:
        """[B, 1, 1, S]: the scores for a sequence of ``length``, as an attention mask.

        It has the type of the query, as the fast kernels require. In bf16 n changes by up to 3 %.
        """
        P = self.score_BP.shape[1]
        return functional.pad(self.score_BP, (0, length - P)).to(dtype)[:, None, None, :]


def attend_single(
    attn: HiDreamAttention, hidden_BSF: torch.Tensor, rope: torch.Tensor, pads: Pads | None
) -> torch.Tensor:
    """Attention of a single-stream block, [B, S, F]: image tokens first, then text.

    As ``HiDreamAttnProcessor`` of diffusers 0.42.1, with the score of the pad raised by log n.
    """
    attended = _attend(attn.heads, _project(attn, hidden_BSF, pads), rope, pads)
    out: torch.Tensor = attn.to_out(attended)
    return out


def attend_double(
    attn: HiDreamAttention,
    image_BPF: torch.Tensor,
    text_BTF: torch.Tensor,
    rope: torch.Tensor,
    pads: Pads | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of a double-stream block: image [B, P, F] and text [B, T, F].

    Image and text have separate weights, and each token attends to all tokens of both.
    """
    P = image_BPF.shape[1]
    dtype = image_BPF.dtype
    query, key, value = _project(attn, image_BPF, pads)
    query_t = attn.q_rms_norm_t(attn.to_q_t(text_BTF)).to(dtype)
    key_t = attn.k_rms_norm_t(attn.to_k_t(text_BTF)).to(dtype)
    query, key = torch.cat([query, query_t], dim=1), torch.cat([key, key_t], dim=1)
    value = torch.cat([value, attn.to_v_t(text_BTF)], dim=1)
    attended = _attend(attn.heads, (query, key, value), rope, pads)
    return attn.to_out(attended[:, :P]), attn.to_out_t(attended[:, P:])


def _project(
    attn: HiDreamAttention, hidden_BSF: torch.Tensor, pads: Pads | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value [B, S, F] of a sequence that starts with the image. A pad's key is 0."""
    dtype = hidden_BSF.dtype
    query = attn.q_rms_norm(attn.to_q(hidden_BSF)).to(dtype)
    key = attn.k_rms_norm(attn.to_k(hidden_BSF)).to(dtype)
    value = attn.to_v(hidden_BSF)
    if pads is not None:
        key = key * pads.real_tokens(key.shape[1], key.dtype)
    return query, key, value


def _attend(
    heads: int,
    query_key_value: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    rope: torch.Tensor,
    pads: Pads | None,
) -> torch.Tensor:
    """Scaled dot-product attention with rotary embedding, [B, S, F]."""
    query_BSAD, key_BSAD, value_BSAD = (
        each.view(*each.shape[:2], heads, -1) for each in query_key_value
    )
    query_BSAD, key_BSAD = _with_rope(query_BSAD, key_BSAD, rope)
    scores = None if pads is None else pads.scores(query_BSAD.shape[1], query_BSAD.dtype)
    attended_BASD = functional.scaled_dot_product_attention(
        query_BSAD.transpose(1, 2),
        key_BSAD.transpose(1, 2),
        value_BSAD.transpose(1, 2),
        attn_mask=scores,
    )
    return attended_BASD.transpose(1, 2).flatten(2).to(query_BSAD.dtype)


def _with_rope(
    query_BSAD: torch.Tensor, key_BSAD: torch.Tensor, rope: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key with rotary embedding, applied to the first part of each head's width."""
    width = 2 * rope.shape[-3]
    rotated = apply_rope(query_BSAD[..., :width], key_BSAD[..., :width], rope)
    if width == query_BSAD.shape[-1]:
        return rotated[0], rotated[1]
    rest = query_BSAD[..., width:], key_BSAD[..., width:]
    query, key = (torch.cat(pair, dim=-1) for pair in zip(rotated, rest, strict=True))
    return query, key
