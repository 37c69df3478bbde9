"""Query, key and value in heads: kernels against PyTorch, PyTorch against diffusers."""

from typing import NamedTuple

import pytest
import torch
from diffusers.models.transformers.transformer_hidream_image import HiDreamAttention, apply_rope

from trainer_core.kernels.qkv_heads import (
    Heads,
    Stream,
    qkv_heads,
    qkv_heads_plain,
    qkv_heads_triton,
)

EPS = 1e-5


class Shape(NamedTuple):
    B: int
    rows: list[tuple[int, int]]
    """Rows and live rows of each stream."""
    heads: int
    D: int
    turned: int
    """Elements of a head that the embedding turns."""


SHAPES = [
    pytest.param(Shape(1, [(7, 5)], 2, 8, 8), id="one stream"),
    pytest.param(Shape(2, [(3, 3), (6, 4)], 3, 8, 4), id="two streams, half turned, odd heads"),
    pytest.param(Shape(1, [(2, 2), (1, 0)], 20, 128, 128), id="true width, no query in a stream"),
    pytest.param(Shape(2, [(4, 4), (2, 2)], 1, 10, 6), id="odd width"),
]


def draw(shape: Shape) -> tuple[list[Stream], torch.Tensor, torch.Tensor]:
    """Streams in float64, and the tables of random angles in fp32."""
    B, rows, heads, D, turned = shape
    generator = torch.Generator().manual_seed(sum(R for R, _ in rows))
    F = heads * D

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    streams = [
        Stream(
            (normal(B, R, 3 * F) * 2).requires_grad_(),
            1 + normal(F) / 4,
            1 + normal(F) / 4,
            live,
        )
        for R, live in rows
    ]
    angles = normal(sum(R for R, _ in rows), turned // 2)
    return streams, angles.cos().float(), angles.sin().float()


def to(streams: list[Stream], dtype: torch.dtype) -> list[Stream]:
    def moved(x: torch.Tensor) -> torch.Tensor:
        return x.detach().to(dtype).requires_grad_(x.requires_grad)

    return [Stream(moved(s[0]), moved(s[1]), moved(s[2]), s.live) for s in streams]


def gradients(streams: list[Stream], outputs: Heads) -> list[torch.Tensor]:
    """Of a random sum over the outputs; the same numbers for every type."""
    generator = torch.Generator().manual_seed(7)
    steering = [
        torch.randn(*x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in outputs
    ]
    trained = [x for s in streams for x in s[:3] if x.requires_grad]
    return list(torch.autograd.grad(outputs, trained, steering, materialize_grads=True))


def distance(found: torch.Tensor, right: torch.Tensor) -> float:
    off = (found.detach().double() - right.detach()).norm()
    return float(off / right.detach().norm()) if off else 0.0


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernels_equal_the_plain_function(
    shape: Shape, dtype: torch.dtype, bound: float
) -> None:
    streams, cos, sin = draw(shape)
    streams = to(streams, dtype)
    wide = to(streams, torch.float64)
    right = qkv_heads_plain(wide, cos, sin, shape.heads, EPS)

    found = qkv_heads_triton(streams, cos, sin, shape.heads, EPS)

    for one, other in zip(found, right, strict=True):
        assert one.dtype == dtype
        assert one.is_contiguous()
        assert one.shape == other.shape
        assert distance(one, other) < bound
    for one, other in zip(gradients(streams, found), gradients(wide, right), strict=True):
        assert one.dtype == dtype
        assert distance(one, other) < bound


def test_a_row_without_a_query_has_only_key_and_value() -> None:
    streams, cos, sin = draw(Shape(2, [(3, 3), (4, 1)], 2, 8, 8))
    streams = to(streams, torch.float32)

    found = qkv_heads_triton(streams, cos, sin, 2, EPS)
    _, d_text = gradients(streams, found)

    assert found.query_BSAD.shape == (2, 4, 2, 8)
    d_query, d_key, d_value = d_text[:, 1:].chunk(3, dim=-1)
    assert not d_query.any()
    assert d_key.all()
    assert d_value.all()


def test_gradients_may_be_strided_as_attention_leaves_them() -> None:
    streams, cos, sin = draw(Shape(2, [(3, 3), (4, 2)], 2, 8, 8))
    streams = to(streams, torch.float32)
    wide = to(streams, torch.float64)

    def of(outputs: Heads, given: list[Stream]) -> tuple[torch.Tensor, ...]:
        query, key, value = (x.transpose(1, 2) for x in outputs)
        loss = torch.nn.functional.scaled_dot_product_attention(query, key, value).sum()
        return torch.autograd.grad(loss, [s.qkv_BR3F for s in given])

    found = of(qkv_heads_triton(streams, cos, sin, 2, EPS), streams)
    right = of(qkv_heads_plain(wide, cos, sin, 2, EPS), wide)

    for one, other in zip(found, right, strict=True):
        assert distance(one, other) < 1e-5


@pytest.mark.parametrize("turned", [16, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_plain_function_rounds_as_diffusers(dtype: torch.dtype, turned: int) -> None:
    B, heads, D, image, text = 2, 2, 16, 5, 3
    shape = Shape(B, [(image, image), (text, text)], heads, D, turned)
    (one, other), cos, sin = draw(shape)
    attn = HiDreamAttention(heads * D, heads, D, eps=EPS)
    for norm, weight in (
        (attn.q_rms_norm, one.query_weight_F),
        (attn.k_rms_norm, one.key_weight_F),
        (attn.q_rms_norm_t, other.query_weight_F),
        (attn.k_rms_norm_t, other.key_weight_F),
    ):
        norm.weight.data = weight.detach()
    attn = attn.to(dtype)
    one, other = to([one, other], dtype)
    q, k, v = one.qkv_BR3F.chunk(3, dim=-1)
    q_t, k_t, v_t = other.qkv_BR3F.chunk(3, dim=-1)
    query = torch.cat([attn.q_rms_norm(q).to(dtype), attn.q_rms_norm_t(q_t).to(dtype)], dim=1)
    key = torch.cat([attn.k_rms_norm(k).to(dtype), attn.k_rms_norm_t(k_t).to(dtype)], dim=1)
    query, key = (x.view(B, image + text, heads, D) for x in (query, key))
    rope = torch.stack([cos, -sin, sin, cos], dim=-1).view(1, image + text, 1, -1, 2, 2)
    turned_query, turned_key = apply_rope(query[..., :turned], key[..., :turned], rope)

    found = qkv_heads([one, other], cos, sin, heads, EPS)

    assert torch.equal(found.query_BSAD, torch.cat([turned_query, query[..., turned:]], dim=-1))
    assert torch.equal(found.key_BRAD, torch.cat([turned_key, key[..., turned:]], dim=-1))
    assert torch.equal(found.value_BRAD.flatten(2), torch.cat([v, v_t], dim=1))


def test_only_the_last_stream_may_lack_queries() -> None:
    streams, cos, sin = draw(Shape(1, [(3, 2), (4, 4)], 2, 8, 8))

    with pytest.raises(ValueError, match="last stream"):
        qkv_heads(streams, cos, sin, 2, EPS)


def test_every_row_needs_its_angles() -> None:
    streams, cos, sin = draw(Shape(1, [(3, 3)], 2, 8, 8))

    with pytest.raises(ValueError, match="3 rows"):
        qkv_heads(streams, cos[:2], sin, 2, EPS)
