"""Attention and whole steps with and without deterministic kernels."""

import os
import warnings
from collections.abc import Iterator

import pytest
import torch

from tests.gpu.engine_steps import backend_of, batch_of, different, launch, on_device, snapshot
from trainer_core.engine.determinism import environment_fingerprint
from trainer_core.hidream.attention import attend
from trainer_core.hidream.kept_attention import KeptAttention

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") != "0",
    reason="needs a CUDA device, and TRITON_INTERPRET=0 before the start",
)
CASES = ("512-bf16", "512-bf16-ckpt", "512-8bit-ckpt", "512-int8-ckpt", "512-fp32")
CUDA = torch.device("cuda")
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(autouse=True)
def _fastest_kernels_again() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def heads_of(samples: int, queries: int, keys: int) -> Heads:
    """Query, key, value, and the gradient of the result, as the blocks have them."""
    draw = torch.Generator(CUDA).manual_seed(queries)

    def normal(tokens: int) -> torch.Tensor:
        shape = samples, tokens, 20, 128
        return torch.randn(shape, generator=draw, device=CUDA, dtype=torch.bfloat16)

    query, key, value = (normal(tokens).requires_grad_() for tokens in (queries, keys, keys))
    return query, key, value, normal(queries).flatten(2)


def attended(heads: Heads) -> list[torch.Tensor]:
    """The result and its gradients."""
    *inputs, gradient = heads
    result = attend(inputs[0], inputs[1], inputs[2], None)
    return [result, *torch.autograd.grad(result, inputs, gradient)]


def kept(heads: Heads) -> list[torch.Tensor]:
    """The same by way of ``KeptAttention``, in the second of its two calls."""
    query, key, value, gradient = heads
    attention = KeptAttention()
    assert attention.can_attend(query, key, value)
    with torch.no_grad():
        attention.attend(query, key, value)
    result = attention.attend(query, key, value)
    return [result, *torch.autograd.grad(result, (query, key, value), gradient)]


@pytest.mark.parametrize("shape", [(1, 1280, 1408), (2, 250, 378), (1, 4352, 4480)])
def test_deterministic_attention_has_equal_bits_kept_or_not(shape: tuple[int, int, int]) -> None:
    heads = heads_of(*shape)
    fastest = attended(heads)
    torch.use_deterministic_algorithms(True)

    first, *others = [attended(heads), kept(heads), attended(heads), kept(heads)]

    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    for exact, fast in zip(first, fastest, strict=True):
        torch.testing.assert_close(exact, fast, atol=2e-2, rtol=2e-2)


def test_the_fastest_attention_is_close_to_itself_kept() -> None:
    heads = heads_of(1, 1280, 1408)

    for one, other in zip(attended(heads), kept(heads), strict=True):
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("case", CASES)
def test_a_step_without_the_mode_is_close_to_one_with_it(case: str) -> None:
    losses, gradients = [], []
    for deterministic in (True, False):
        backend = backend_of(case, deterministic=deterministic)
        loss = backend.losses(on_device(batch_of(1), backend)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        (leaf,) = backend._parameters.leaves
        assert leaf.grad is not None
        losses.append(loss.item())
        gradients.append(leaf.grad.double())

    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99


@pytest.mark.parametrize("case", CASES)
def test_steps_without_the_mode_neither_fail_nor_warn(case: str) -> None:
    backend = backend_of(case, deterministic=False)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*deterministic.*")
        for step in (1, 2, 3):
            launch(backend, step, batch_of(step)).read()

    assert not backend.take_warnings()


@pytest.mark.parametrize("case", CASES)
def test_two_runs_have_equal_bits(case: str) -> None:
    runs = []
    for _ in range(2):
        backend = backend_of(case)
        for step in (1, 2, 3):
            launch(backend, step, batch_of(step)).read()
        runs.append(snapshot(backend.tensors()))

    assert not different(*runs)


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_checkpoint_stores_the_card_and_the_mode(deterministic: bool) -> None:
    torch.use_deterministic_algorithms(deterministic)

    found = environment_fingerprint(CUDA)

    assert found["card"] == torch.cuda.get_device_name()
    assert found["deterministic"] is deterministic
