"""Text encoding, with the same bits as diffusers' pipeline at the same precision.

Shape letters: N captions, T tokens (128), L hidden states of Llama, P pooled width, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from trainer_core.hidream.loading import TextEncoders

MAX_TOKENS: Final = 128
"""Tokens of a caption, as HiDream-I1 was trained. Longer captions are truncated."""


@dataclass(frozen=True, slots=True)
class TextEmbeddings:
    """The four encoders' outputs for N captions, batch first."""

    t5: torch.Tensor
    """[N, T, D_t5], the encoder's output."""
    llama: torch.Tensor
    """[N, L, T, D_llama]: every hidden state after the embedding layer, the last one normed."""
    pooled: torch.Tensor
    """[N, P]: the projected pooled outputs of both CLIPs side by side."""

    def __post_init__(self) -> None:
        if self.t5.ndim != 3 or self.llama.ndim != 4 or self.pooled.ndim != 2:
            raise ValueError(f"text embeddings of shapes {self._shapes()}")
        if not len(self.t5) == len(self.llama) == len(self.pooled):
            raise ValueError(f"text embeddings of different batch: {self._shapes()}")

    def __len__(self) -> int:
        return len(self.pooled)

    def _shapes(self) -> str:
        return ", ".join(str(tuple(t.shape)) for t in (self.t5, self.llama, self.pooled))

    def row(self, index: int) -> "TextEmbeddings":
        """One caption as a batch of one."""
        rows = slice(index, index + 1)
        return TextEmbeddings(self.t5[rows], self.llama[rows], self.pooled[rows])

    def to(self, *, device: torch.device, dtype: torch.dtype) -> "TextEmbeddings":
        """The same embeddings on a device, in a type."""
        return TextEmbeddings(
            self.t5.to(device, dtype), self.llama.to(device, dtype), self.pooled.to(device, dtype)
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by their names in a shard."""
        return {"t5": self.t5, "llama": self.llama, "pooled": self.pooled}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> "TextEmbeddings":
        """From what ``tensors`` returned."""
        return cls(tensors["t5"], tensors["llama"], tensors["pooled"])

    @classmethod
    def concatenate(cls, parts: Sequence["TextEmbeddings"]) -> "TextEmbeddings":
        """One batch of several."""
        return cls(
            torch.cat([part.t5 for part in parts]),
            torch.cat([part.llama for part in parts]),
            torch.cat([part.pooled for part in parts]),
        )


@torch.no_grad()
def encode_texts(encoders: TextEncoders, texts: Sequence[str]) -> TextEmbeddings:
    """Embeddings of the captions, in order, on the encoders' device and in their dtype.

    All captions are one batch. The calls are those of diffusers'
    ``HiDreamImagePipeline.encode_prompt``: all four encoders get the same caption, padded to 128
    tokens, with attention masks in T5 and Llama only and without a chat template.
    """
    captions = list(texts)
    pooled = [
        _clip(encoders.clip_l, encoders.tokenizer_clip_l, captions),
        _clip(encoders.clip_g, encoders.tokenizer_clip_g, captions),
    ]
    return TextEmbeddings(
        t5=_t5(encoders, captions),
        llama=_llama(encoders, captions),
        pooled=torch.cat(pooled, dim=-1),
    )


def _clip(encoder: Any, tokenizer: Any, captions: list[str]) -> torch.Tensor:
    tokens = _tokens(tokenizer, captions, MAX_TOKENS)
    pooled: torch.Tensor = encoder(tokens.input_ids.to(encoder.device)).text_embeds
    return pooled


def _t5(encoders: TextEncoders, captions: list[str]) -> torch.Tensor:
    tokenizer, encoder = encoders.tokenizer_t5, encoders.t5
    tokens = _tokens(tokenizer, captions, min(MAX_TOKENS, tokenizer.model_max_length))
    hidden: torch.Tensor = encoder(
        tokens.input_ids.to(encoder.device),
        attention_mask=tokens.attention_mask.to(encoder.device),
    ).last_hidden_state
    return hidden


def _llama(encoders: TextEncoders, captions: list[str]) -> torch.Tensor:
    tokenizer, encoder = encoders.tokenizer_llama, encoders.llama
    tokens = _tokens(tokenizer, captions, min(MAX_TOKENS, tokenizer.model_max_length))
    # Without the language-model head, whose logits are not used.
    outputs = encoder.model(
        tokens.input_ids.to(encoder.device),
        attention_mask=tokens.attention_mask.to(encoder.device),
        output_hidden_states=True,
        use_cache=False,
    )
    return torch.stack(outputs.hidden_states[1:], dim=1)


def _tokens(tokenizer: Any, captions: list[str], length: int) -> Any:
    return tokenizer(
        captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
