"""Count the parameters of HiDream-I1's parts from their ``config.json``, without torch.

Tests compare each count with the real class.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from trainer_core.config.plan.shapes import hidream_linears


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSize:
    """How many parameters and linear layers a model has."""

    parameters: int
    linears: int
    linear_weights: int
    """Elements of the weights of its linear layers; only these are quantised."""
    linear_rows: int
    """Output channels of its linear layers; each has one scale when quantised."""


def transformer_tensors(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Number of elements of each parameter of the transformer, in no particular order."""
    linears = hidream_linears(config)
    weights = [linear.in_features * linear.out_features for linear in linears]
    biases = [linear.out_features for linear in linears if linear.bias]
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    doubles, singles = config["num_layers"], config["num_single_layers"]
    norms = [dim] * (4 * doubles + 2 * singles)  # of queries and keys, for each stream
    experts = config.get("num_routed_experts", 4)
    gates = [experts * dim] * (doubles + singles) if experts else []
    return (*weights, *biases, *norms, *gates)


def transformer_size(config: Mapping[str, Any]) -> PartSize:
    linears = hidream_linears(config)
    return PartSize(
        parameters=sum(transformer_tensors(config)),
        linears=len(linears),
        linear_weights=sum(linear.in_features * linear.out_features for linear in linears),
        linear_rows=sum(linear.out_features for linear in linears),
    )


def text_encoder_size(number: int, config: Mapping[str, Any]) -> PartSize:
    """Size of a text encoder; ``number``: 1 and 2 are CLIP with projection, 3 is T5, 4 is Llama."""
    return (_clip, _clip, _t5, _llama)[number - 1](config)


def _clip(config: Mapping[str, Any]) -> PartSize:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    layers = config["num_hidden_layers"]
    block = [(hidden, hidden)] * 4 + [(hidden, inner), (inner, hidden)]
    linears = [*block * layers, (hidden, config["projection_dim"])]
    biases = layers * sum(rows for _, rows in block)
    embeddings = (config["vocab_size"] + config["max_position_embeddings"]) * hidden
    norms = (4 * layers + 2) * hidden
    return _size(linears, others=embeddings + biases + norms)


def _t5(config: Mapping[str, Any]) -> PartSize:
    dim, heads = config["d_model"], config["num_heads"]
    inner, hidden, layers = heads * config["d_kv"], config["d_ff"], config["num_layers"]
    ways_in = 2 if str(config.get("feed_forward_proj", "")).startswith("gated") else 1
    block = [(dim, inner)] * 3 + [(inner, dim)] + [(dim, hidden)] * ways_in + [(hidden, dim)]
    positions = config.get("relative_attention_num_buckets", 32) * heads
    norms = (2 * layers + 1) * dim
    return _size(block * layers, others=config["vocab_size"] * dim + positions + norms)


def _llama(config: Mapping[str, Any]) -> PartSize:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    head = config.get("head_dim") or hidden // heads
    queries, keys = heads * head, (config.get("num_key_value_heads") or heads) * head
    block = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    block += [(hidden, inner), (hidden, inner), (inner, hidden)]
    is_tied = config.get("tie_word_embeddings", False)
    head_out = [] if is_tied else [(hidden, config["vocab_size"])]
    norms = (2 * layers + 1) * hidden
    return _size([*block * layers, *head_out], others=config["vocab_size"] * hidden + norms)


def _size(linears: Sequence[tuple[int, int]], *, others: int) -> PartSize:
    """``linears``: (in, out) of each; ``others``: all other parameters."""
    weights = sum(columns * rows for columns, rows in linears)
    return PartSize(
        parameters=weights + others,
        linears=len(linears),
        linear_weights=weights,
        linear_rows=sum(rows for _, rows in linears),
    )


def vae_parameters(config: Mapping[str, Any]) -> int:
    """Parameters of diffusers' AutoencoderKL, with attention in the middle block."""
    widths = [int(width) for width in config["block_out_channels"]]
    layers, latent = int(config["layers_per_block"]), int(config["latent_channels"])
    middle = 2 * _resnet(widths[-1], widths[-1]) + _attention(widths[-1])
    encoder = _convolution(config["in_channels"], widths[0]) + middle
    for before, width in pairwise([widths[0], *widths]):
        encoder += _resnet(before, width) + (layers - 1) * _resnet(width, width)
    encoder += sum(_convolution(width, width) for width in widths[:-1])
    encoder += 2 * widths[-1] + _convolution(widths[-1], 2 * latent)
    up = widths[::-1]
    decoder = _convolution(latent, up[0]) + middle
    for before, width in pairwise([up[0], *up]):
        decoder += _resnet(before, width) + layers * _resnet(width, width)
    decoder += sum(_convolution(width, width) for width in up[:-1])
    decoder += 2 * up[-1] + _convolution(up[-1], config["out_channels"])
    quant = (2 * latent) ** 2 + 2 * latent if config.get("use_quant_conv", True) else 0
    post_quant = latent**2 + latent if config.get("use_post_quant_conv", True) else 0
    return encoder + decoder + quant + post_quant


def _convolution(in_: int, out: int) -> int:
    return math.prod((3, 3, in_, out)) + out


def _resnet(in_: int, out: int) -> int:
    shortcut = in_ * out + out if in_ != out else 0
    return 2 * in_ + _convolution(in_, out) + 2 * out + _convolution(out, out) + shortcut


def _attention(width: int) -> int:
    return 2 * width + 4 * (width**2 + width)
