"""Text encoding, with the same bits as diffusers' pipeline at the same precision.

Shape letters: N captions, T tokens (128), L hidden states of Llama, P pooled width, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from trainer_core.data.text_rows import from_fp8
from trainer_core.hidream.loading import TextEncoder, TextEncoders

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
    t5_scale: torch.Tensor | None = None
    """[N, T], where ``t5`` and ``llama`` are rows of 8 bits; ``to`` multiplies them. Else None."""
    llama_scale: torch.Tensor | None = None
    """[N, L, T]."""

    def __post_init__(self) -> None:
        if self.t5.ndim != 3 or self.llama.ndim != 4 or self.pooled.ndim != 2:
            raise ValueError(f"text embeddings of shapes {self._shapes()}")
        if len({len(tensor) for tensor in self.tensors().values()}) != 1:
            raise ValueError(f"text embeddings of different batch: {self._shapes()}")

    def __len__(self) -> int:
        return len(self.pooled)

    def _shapes(self) -> str:
        return ", ".join(str(tuple(tensor.shape)) for tensor in self.tensors().values())

    def row(self, index: int) -> "TextEmbeddings":
        """One caption as a batch of one."""
        return self.map(lambda tensor: tensor[index : index + 1])

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "TextEmbeddings":
        """The embeddings with ``change`` applied to each tensor."""
        return self.from_tensors({name: change(each) for name, each in self.tensors().items()})

    def to(self, *, device: torch.device, dtype: torch.dtype) -> "TextEmbeddings":
        """The same embeddings on a device, in a type; rows of 8 bits are multiplied there."""
        here = self.map(lambda tensor: tensor.to(device))
        t5, llama = here.t5, here.llama
        if here.t5_scale is not None and here.llama_scale is not None:
            t5 = from_fp8(t5, here.t5_scale, dtype)
            llama = from_fp8(llama, here.llama_scale, dtype)
        return TextEmbeddings(t5.to(dtype), llama.to(dtype), here.pooled.to(dtype))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by their names in the cache."""
        named = {
            "t5": self.t5,
            "llama": self.llama,
            "pooled": self.pooled,
            "t5_scale": self.t5_scale,
            "llama_scale": self.llama_scale,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> "TextEmbeddings":
        """From what ``tensors`` returned."""
        return cls(**tensors)

    @classmethod
    def concatenate(cls, parts: Sequence["TextEmbeddings"]) -> "TextEmbeddings":
        """One batch of several, all of which have rows of 8 bits, or none."""
        each = [part.tensors() for part in parts]
        return cls.from_tensors({name: torch.cat([one[name] for one in each]) for name in each[0]})


def encode_texts(encoders: TextEncoders, texts: Sequence[str]) -> TextEmbeddings:
    """Embeddings of the captions, in order, on the encoders' device and in their dtype.

    All captions are one batch. The calls are those of diffusers'
    ``HiDreamImagePipeline.encode_prompt``: all four encoders get the same caption, padded to 128
    tokens, with attention masks in T5 and Llama only and without a chat template.
    """
    captions = list(texts)
    pooled = [pooled_of(encoders.clip_l, captions), pooled_of(encoders.clip_g, captions)]
    return TextEmbeddings(
        t5=t5_of(encoders.t5, captions),
        llama=llama_of(encoders.llama, captions),
        pooled=torch.cat(pooled, dim=-1),
    )


@torch.no_grad()
def pooled_of(clip: TextEncoder, captions: Sequence[str]) -> torch.Tensor:
    """The projected pooled output [N, P_clip] of one of the two CLIPs, as in ``encode_texts``."""
    tokens = _tokens(clip.tokenizer, captions, MAX_TOKENS)
    pooled: torch.Tensor = clip.module(tokens.input_ids.to(clip.module.device)).text_embeds
    return pooled


@torch.no_grad()
def t5_of(t5: TextEncoder, captions: Sequence[str]) -> torch.Tensor:
    """``TextEmbeddings.t5``, as in ``encode_texts``."""
    encoder = t5.module
    tokens = _tokens(t5.tokenizer, captions, min(MAX_TOKENS, t5.tokenizer.model_max_length))
    hidden: torch.Tensor = encoder(
        tokens.input_ids.to(encoder.device),
        attention_mask=tokens.attention_mask.to(encoder.device),
    ).last_hidden_state
    return hidden


@torch.no_grad()
def llama_of(llama: TextEncoder, captions: Sequence[str]) -> torch.Tensor:
    """``TextEmbeddings.llama``, as in ``encode_texts``."""
    encoder = llama.module
    tokens = _tokens(llama.tokenizer, captions, min(MAX_TOKENS, llama.tokenizer.model_max_length))
    # Without the language-model head, whose logits are not used.
    outputs = encoder.model(
        tokens.input_ids.to(encoder.device),
        attention_mask=tokens.attention_mask.to(encoder.device),
        output_hidden_states=True,
        use_cache=False,
    )
    return torch.stack(outputs.hidden_states[1:], dim=1)


def _tokens(tokenizer: Any, captions: Sequence[str], length: int) -> Any:
    return tokenizer(
        list(captions),
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
