"""Bytes of activations that the fused blocks keep for the backward pass.

Letters: S live tokens, R = S and the tail's, F width, A heads, K experts chosen for a token.

A block keeps the residual stream before its attention and before its feed-forward, queries, keys
and values before and after their norm, the attention's output with its fp32 log-sum-exp, and both
halves of each SwiGLU; for each adapted linear its input and an inner product. SwiGLU's output and
what comes after it is not kept: no gradient needs it, or it is made again by one small kernel.
"""

from dataclasses import dataclass

from trainer_core.config.plan.matmul import is_8bit
from trainer_core.memory.fused_model import LIVE_TEXT_TOKENS, TAIL_TOKENS, FusedModel, Tokens
from trainer_core.memory.weights import FP32_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockBytes:
    """One block, for one micro-batch."""

    kept: int
    """From the forward to the backward pass, where the block is not recomputed."""
    input: int
    """The same where it is recomputed: its input and the result of its attention, which ``kept``
    includes."""
    passing: int
    """The most that its backward pass allocates beside what is kept and ``transposed``."""
    transposed: int
    """A transposed 8-bit weight, made for the gradient of its input."""
    recompute_flops: int
    """Of computing it again up to SwiGLU, without attention.

    All are 0 of a block before the first one with a gradient."""


@dataclass(frozen=True, slots=True)
class _Stream:
    """Tokens with linears of their own: image or all tokens, or in a double block the text."""

    path: str
    suffix: str
    """Of its attention's linears."""
    feed: str
    """Its feed-forward's path."""
    live: int
    """Rows whose results are used."""
    rows: int
    """Rows with keys and values."""
    has_experts: bool


def block_bytes(model: FusedModel, number: int, tokens: Tokens) -> BlockBytes:
    """What block ``number`` needs, double-stream blocks first."""
    if number < model.first_trained:
        return BlockBytes(kept=0, input=0, passing=0, transposed=0, recompute_flops=0)
    streams = _streams(model, number, tokens)
    live = sum(stream.live for stream in streams)
    keys = sum(stream.rows for stream in streams)
    F, size = model.width, model.number_bytes
    attention = F * (2 * live + 2 * keys)  # queries, output; keys, values
    kept = attention + sum(_stream_numbers(model, stream) for stream in streams)
    if len(streams) > 1 and tokens.samples > 1:
        # The attention's output is cut into streams, which copies the input of an adapted linear.
        kept += sum(
            stream.live * F
            for stream in streams
            if _any_adapted(model, stream, [f"attn1.to_out{stream.suffix}"])
        )
    log_sum_exp = live * model.heads * FP32_BYTES
    return BlockBytes(
        kept=kept * size + log_sum_exp,
        input=2 * live * F * size + log_sum_exp,
        passing=max(_passing_bytes(model, stream) for stream in streams),
        transposed=max(_up_numbers(model, stream) for stream in streams)
        if is_8bit(model.matmul)
        else 0,
        recompute_flops=_recompute_flops(model, streams),
    )


def outside_bytes(model: FusedModel, tokens: Tokens) -> int:
    """What is alive during the whole step beside the blocks' activations.

    Two batches of cached text, because one is copied while the other is computed; the projected
    captions and the modulations of all blocks, which the backward pass reads; patches and the
    output; the adapter in the compute type.
    """
    B, F, size = tokens.samples, model.width, model.number_bytes
    llama, t5 = (model.linears[f"caption_projection.{i}.linear"] for i in (0, model.blocks))
    text = B * TAIL_TOKENS * (model.llama_layers * llama.in_features + t5.in_features)
    captions = B * (model.blocks + 1) * TAIL_TOKENS * F
    modulations = B * F * (12 * model.doubles + 6 * model.singles + 2)
    ahead = 2 * (text + captions + modulations)
    return size * (ahead + 3 * B * tokens.image * F + model.trained)


def _streams(model: FusedModel, number: int, tokens: Tokens) -> tuple[_Stream, ...]:
    """The tokens of a block.

    The load-balancing loss counts all tokens. Without it the tail's outputs are not computed, nor
    those of any text in the last block.
    """
    B, path, has_experts = tokens.samples, model.block_path(number), model.experts > 0
    image, all_text = B * tokens.image, B * (LIVE_TEXT_TOKENS + TAIL_TOKENS)
    text = all_text if model.has_balance else B * LIVE_TEXT_TOKENS
    if number < model.doubles:
        return (
            _Stream(path, "", "ff_i", image, image, has_experts),
            _Stream(path, "_t", "ff_t", text, all_text, False),
        )
    if number == model.blocks - 1 and not model.has_balance:
        text = 0
    return (_Stream(path, "", "ff_i", image + text, image + all_text, has_experts),)


def _stream_numbers(model: FusedModel, stream: _Stream) -> int:
    """Numbers that are kept beside those of the joint attention."""
    F = model.width
    qkv = [f"attn1.to_{part}{stream.suffix}" for part in "qkv"]
    numbers = 2 * stream.live * F  # the residual stream
    numbers += 3 * stream.rows * F  # queries, keys and values before their norm
    numbers += stream.rows * (F if _any_adapted(model, stream, qkv) else 0)
    numbers += stream.rows * _inner(model, stream, qkv)
    numbers += stream.live * _inner(model, stream, [f"attn1.to_out{stream.suffix}"])
    if f"{stream.path}adaLN_modulation.1" in model.inner:
        numbers += 2 * stream.live * F  # the updates, for the gradients of their gates
    return numbers + _feed_numbers(model, stream)


def _feed_numbers(model: FusedModel, stream: _Stream) -> int:
    """Numbers that the feed-forward or the experts keep."""
    F, feed = model.width, stream.feed
    up, down = [f"{feed}.w1", f"{feed}.w3"], [f"{feed}.w2"]
    if not stream.has_experts:
        numbers = _swiglu_numbers(model, stream, stream.live, up, down)
        return numbers + (stream.live * F if _any_adapted(model, stream, up) else 0)
    shared = f"{feed}.shared_experts"
    shared_up, shared_down = [f"{shared}.w1", f"{shared}.w3"], [f"{shared}.w2"]
    numbers = _swiglu_numbers(model, stream, stream.live, shared_up, shared_down)
    # All experts have the same shapes; where they are adapted, all are adapted alike.
    up, down = ([f"{feed}.experts.0.{w}" for w in names] for names in (("w1", "w3"), ("w2",)))
    numbers += _swiglu_numbers(model, stream, stream.live * model.choices, up, down)
    if _any_adapted(model, stream, [*up, *shared_up]):
        numbers += stream.live * F
    return numbers


def _swiglu_numbers(
    model: FusedModel, stream: _Stream, rows: int, up: list[str], down: list[str]
) -> int:
    width = sum(model.linears[stream.path + name].out_features for name in up)
    return rows * (width + _inner(model, stream, [*up, *down]))


def _inner(model: FusedModel, stream: _Stream, names: list[str]) -> int:
    return sum(model.inner.get(stream.path + name, 0) for name in names)


def _any_adapted(model: FusedModel, stream: _Stream, names: list[str]) -> bool:
    return any(stream.path + name in model.inner for name in names)


def _passing_bytes(model: FusedModel, stream: _Stream) -> int:
    """While the gradient of SwiGLU's input becomes that of the rows.

    Alive are the gradient of SwiGLU's output, that of its input (in 8 bits where these are
    multiplied), the result, and three gradients of the residual stream's size; where these linears
    are adapted, their inputs and whole gradients too.

    The gradient of attention comes later and needs less, because SwiGLU's input is freed by then. A
    deterministic one adds up 7 fp32 copies of the queries' gradient on an H200 (one sample): 0.29
    GiB at 1024 px, where SwiGLU's input has 0.28 GiB and its gradient takes 0.33 GiB.
    """
    F, size = model.width, model.number_bytes
    name = _routed(stream)
    rows = stream.live * (model.choices if stream.has_experts else 1)
    inner = model.linears[f"{stream.path}{name}.w1"].out_features
    numbers = rows * (inner + F) + 3 * stream.live * F
    in_8_bits = rows * 2 * inner if is_8bit(model.matmul) else 0
    is_up_adapted = _any_adapted(model, stream, [f"{name}.w1", f"{name}.w3"])
    if is_up_adapted or not is_8bit(model.matmul):
        numbers += rows * 2 * inner
    if is_up_adapted:
        numbers += rows * (inner + F)
    if _any_adapted(model, stream, [f"{name}.w2"]):
        numbers += rows * (inner + F)
    return in_8_bits + size * numbers


def _up_numbers(model: FusedModel, stream: _Stream) -> int:
    """Elements of the largest weight: w1 and w3 of the feed-forward or of all experts."""
    inner = model.linears[f"{stream.path}{_routed(stream)}.w1"].out_features
    return 2 * inner * model.width * (model.experts if stream.has_experts else 1)


def _routed(stream: _Stream) -> str:
    """Where the linears of the first expert are, or those of the feed-forward."""
    return f"{stream.feed}.experts.0" if stream.has_experts else stream.feed


def _recompute_flops(model: FusedModel, streams: tuple[_Stream, ...]) -> int:
    F = model.width
    products = 0
    for stream in streams:
        products += F * F * (3 * stream.rows + stream.live)
        names = [f"{stream.feed}.w1"]
        if stream.has_experts:
            names = [f"{stream.feed}.shared_experts.w1"]
            names += [f"{stream.feed}.experts.0.w1"] * model.choices
        inner = sum(model.linears[stream.path + name].out_features for name in names)
        products += 2 * stream.live * inner * F
    return 2 * products
