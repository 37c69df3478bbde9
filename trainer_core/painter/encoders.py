"""The painting model's four text encoders: random weights that nobody trains, and their tokenizers.

A word of the grammar is one token; other text is split into letters. The weights are made so that
a caption can be told from its embeddings:

- T5's heads look at the neighbours at fixed distances, whatever the words. So the state of
  ``background`` tells the word before it, and a colour tells whose colour it is.
- CLIP's heads look at all earlier tokens alike. So its pooled output is the sum of the words.
- Llama's heads are random.
"""

import math
from typing import Any, Final

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from trainer_core.hidream.testing.tokenizers import clip_tokenizer, t5_tokenizer
from trainer_core.painter.grammar import words

TOKENS: Final = 20
"""Of T5 and of Llama. A caption of the grammar has 13 words. The real model takes 128 tokens, which
would cost most of the time of a small picture."""
WIDTH: Final = 64
"""Of the states of all four encoders."""

_CLIP_LAYERS: Final = 1
_T5_HEADS: Final = 4
_T5_NEIGHBOURS: Final = (-1, 1, -2, 2)
"""Which neighbour each of T5's heads looks at."""
_T5_BUCKETS: Final = 32
_LOOKS: Final = 30.0
"""Attention score that leaves next to nothing for other tokens."""


def clip_words() -> CLIPTokenizer:
    """Letters, with a token for each word of the grammar."""
    tokenizer = clip_tokenizer()
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in words()])
    return tokenizer


def t5_words() -> T5Tokenizer:
    """Characters, with a piece for each word of the grammar."""
    vocabulary = t5_tokenizer().get_vocab()
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    scored = [(piece, 0.0 if piece.startswith("<") else -2.0) for piece in pieces]
    scored += [(f"▁{word}", -1.0) for word in words()]
    return T5Tokenizer(vocab=scored, extra_ids=0, model_max_length=TOKENS)


def llama_words() -> PreTrainedTokenizerFast:
    """Bytes, with a token for each word of the grammar; pads with the end token."""
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    named = [token for word in words() for token in (f"Ġ{word}", word)]
    tokens = [*sorted(ByteLevel.alphabet()), begin, end]
    tokens += [token for token in named if token not in tokens]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, vocabulary[begin])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token=end,
        model_max_length=TOKENS,
    )


def build_encoders(draw: torch.Generator) -> dict[str, Any]:
    """The four encoders and tokenizers, by the names of diffusers' pipeline, fp32, in eval mode."""
    clip, t5, llama = clip_words(), t5_words(), llama_words()
    encoders = {
        "text_encoder": _clip(clip),
        "text_encoder_2": _clip(clip),
        "text_encoder_3": _t5(t5),
        "text_encoder_4": _llama(llama),
    }
    for name in sorted(encoders):
        _initialise(encoders[name].eval(), draw)
    for name in ("text_encoder", "text_encoder_2"):
        _sum_words(encoders[name])
    _look_at_neighbours(encoders["text_encoder_3"])
    return {
        **encoders,
        "tokenizer": clip,
        "tokenizer_2": clip_words(),
        "tokenizer_3": t5,
        "tokenizer_4": llama,
    }


def _clip(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=_CLIP_LAYERS,
        num_attention_heads=2,
        max_position_embeddings=128,  # the pipeline pads to 128 tokens
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


def _t5(tokenizer: T5Tokenizer) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=WIDTH // _T5_HEADS,
        num_heads=_T5_HEADS,
        d_ff=WIDTH,
        num_layers=1,
        relative_attention_num_buckets=_T5_BUCKETS,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def _llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


@torch.no_grad()
def _initialise(module: torch.nn.Module, draw: torch.Generator) -> None:
    """Weights with variance 1 / inputs and embeddings with variance 1; biases 0, norm weights 1.

    Uniform numbers: the bits of normal ones would depend on the CPU's vector width.
    """
    embeddings = {
        id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)
    }
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.ndim < 2:
            parameter.fill_(1.0)
        else:
            inputs = 1 if id(parameter) in embeddings else parameter[0].numel()
            uniform = torch.rand(parameter.shape, generator=draw) * 2 - 1
            parameter.copy_(uniform * math.sqrt(3 / inputs))


@torch.no_grad()
def _sum_words(clip: CLIPTextModelWithProjection) -> None:
    """Without scores all earlier tokens count alike; without positions their order does not.

    The pooled output is that of the end token, which has no embedding of its own here.
    """
    for name, parameter in clip.named_parameters():
        if "q_proj" in name or "k_proj" in name or "position_embedding" in name:
            parameter.zero_()
        if "token_embedding" in name:
            parameter[clip.config.eos_token_id] = 0.0


@torch.no_grad()
def _look_at_neighbours(t5: T5EncoderModel) -> None:
    for name, parameter in t5.named_parameters():
        if name.endswith((".q.weight", ".k.weight")):
            parameter.zero_()
        if "relative_attention_bias" in name:
            parameter.zero_()
            for head, distance in enumerate(_T5_NEIGHBOURS):
                # Small distances have a bucket each; those to the right are in the second half.
                bucket = abs(distance) + (_T5_BUCKETS // 2 if distance > 0 else 0)
                parameter[bucket, head] = _LOOKS
