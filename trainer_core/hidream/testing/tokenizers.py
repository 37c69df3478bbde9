"""Tokenizers of the tiny model, in the real classes, with a token for each byte or character."""

import string

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, T5Tokenizer

_MAX_TOKENS = 248
"""As in HiDream-I1's CLIP tokenizers; the pipeline uses 128."""


def clip_tokenizer() -> CLIPTokenizer:
    """A token for each byte, each word-final byte and the two special tokens; no merges."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=[],
        model_max_length=_MAX_TOKENS,
    )


def t5_tokenizer() -> T5Tokenizer:
    """A unigram piece for each printable ASCII character; all others are unknown."""
    pieces = ["<pad>", "</s>", "<unk>", "▁"]
    pieces += sorted(set(string.printable) - set(string.whitespace))
    return T5Tokenizer(
        vocab=[(piece, 0.0 if piece.startswith("<") else -2.0) for piece in pieces],
        extra_ids=0,
        model_max_length=512,
    )


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges, with a begin token; pads with the end token."""
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    words = [*sorted(ByteLevel.alphabet()), begin, end]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
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
        model_max_length=512,
    )
