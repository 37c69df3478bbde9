"""Few blocks of HiDream-I1's true width equal diffusers' class: velocity and adapter's gradient.

In fp32, without TF32, ours is within 1e-5 of diffusers in fp32 and in float64. In bf16 it is no
further from float64 than diffusers in bf16. `make test-gpu` runs this.

A token whose second and third expert are almost equally probable may get another one after another
rounding. Then it differs by far more than the rounding:

- In fp32 each batch is the first one in which no token is close to that, by the float64 model.
- In bf16 every batch has such tokens, and who chooses as float64 does is luck. So there each token
  gets all experts. `python -m benchmarks.accuracy` compares the whole network with two of them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
import torch

from benchmarks.step.agreement import agreement, relative_error
from tests.gpu.few_blocks import AdapterKind, Answer, Model, Ours, Shape, Stock, free_memory
from trainer_core.base_models.known import PUBLISHED
from trainer_core.engine.batch import Batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

KINDS: Final[Mapping[str, AdapterKind]] = {
    "lokr-attention": AdapterKind("lokr", ("attn1",)),
    "lokr-feed-forward": AdapterKind("lokr", ("attn1", "ff_")),
    "lora-feed-forward": AdapterKind("lora", ("attn1", "ff_")),
    "lokr-conditioning": AdapterKind(
        "lokr", ("embedder", "caption_projection", "adaLN", "final_layer")
    ),
}
SHAPES: Final = (
    Shape(cells=(64, 64)),
    Shape(cells=(22, 38)),  # 11 times 19 patches
    Shape(cells=(20, 36), samples=2),
    Shape(cells=(16, 16), t5_tokens=77, llama_tokens=100),
)
FP32_LIMIT: Final = 1e-5
BF16_MARGIN: Final = 1.05
FAR_FROM_TIES: Final = 1e-4
"""Between logits of about 1; in fp32 their error is about 1e-6."""
SEEDS: Final = 30


@pytest.fixture(scope="module", params=KINDS.values(), ids=list(KINDS))
def kind(request: Any) -> AdapterKind:
    found: AdapterKind = request.param
    return found


@pytest.fixture(scope="module", autouse=True)
def _without_tf32() -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.fixture(autouse=True)
def _freed_memory() -> Iterator[None]:
    yield
    free_memory()


class Stocks:
    """Batches of all shapes, and what diffusers computes of them in float64 and in ``dtype``."""

    def __init__(self, model: Model, kind: AdapterKind, dtype: torch.dtype) -> None:
        self.model, self.kind, self.dtype = model, kind, dtype
        exact = Stock(model, kind, torch.float64)
        self.batches = [_batch(exact, shape) for shape in SHAPES]
        self.exact = [exact.answer(batch) for batch in self.batches]
        del exact
        free_memory()
        rounded = Stock(model, kind, dtype)
        self.rounded = [rounded.answer(batch) for batch in self.batches]

    def ours(self, *, is_fused: bool, checkpointing: bool) -> list[Answer]:
        """The same from ours in ``dtype``."""
        network = Ours(
            self.model, self.kind, self.dtype, is_fused=is_fused, checkpointing=checkpointing
        )
        return [network.answer(batch) for batch in self.batches]


def _batch(exact: Stock, shape: Shape) -> Batch:
    """The first batch without a close choice of experts."""
    for seed in range(SEEDS):
        batch = exact.model.batch(shape, seed)
        if exact.narrowest_choice(batch) > FAR_FROM_TIES:
            return batch
    raise AssertionError(f"every batch of {shape} has close choices of experts")


@pytest.fixture(scope="module")
def in_fp32(kind: AdapterKind) -> Stocks:
    return Stocks(_model(), kind, torch.float32)


@pytest.fixture(scope="module")
def in_bf16(kind: AdapterKind) -> Stocks:
    return Stocks(_model().with_all_experts(), kind, torch.bfloat16)


def _model() -> Model:
    return Model.cut(PUBLISHED.transformer, torch.device("cuda"))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("is_fused", [False, True], ids=["plain", "fused"])
def test_fp32_equals_diffusers(in_fp32: Stocks, is_fused: bool, checkpointing: bool) -> None:
    check_fp32(in_fp32, is_fused=is_fused, checkpointing=checkpointing)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_bf16_is_as_exact_as_diffusers(in_bf16: Stocks, checkpointing: bool) -> None:
    check_bf16(in_bf16, checkpointing=checkpointing)


def check_fp32(stocks: Stocks, *, is_fused: bool, checkpointing: bool) -> None:
    """Velocity, and the gradients of all tensors of a name together, such as w1."""
    found = stocks.ours(is_fused=is_fused, checkpointing=checkpointing)
    for reference, right in (("float64", stocks.exact), ("fp32", stocks.rounded)):
        for shape, one, other in zip(SHAPES, found, right, strict=True):
            for name, error in _errors(one, other).items():
                assert error < FP32_LIMIT, f"{name} of {shape} against {reference}: {error:.1e}"


def check_bf16(stocks: Stocks, *, checkpointing: bool) -> None:
    """The root mean square of the relative errors of all shapes."""
    found = stocks.ours(is_fused=True, checkpointing=checkpointing)
    ours, stock = (_mean_errors(each, stocks.exact) for each in (found, stocks.rounded))
    for name, error in ours.items():
        assert 0 < error < BF16_MARGIN * stock[name], f"{name}: {error:.2e}, {stock[name]:.2e}"


def _errors(found: Answer, right: Answer) -> dict[str, float]:
    gradients = found.gradient.tensors, right.gradient.tensors
    assert gradients[0].keys() == gradients[1].keys()
    errors = {"velocity": relative_error(found.velocity_BCHW, right.velocity_BCHW)}
    for kind in sorted({name.rpartition(".")[2] for name in gradients[0]}):
        names = [name for name in gradients[0] if name.endswith(f".{kind}")]
        one, other = (torch.cat([each[name].flatten() for name in names]) for each in gradients)
        errors[kind] = relative_error(one, other)
    return errors


def _mean_errors(found: list[Answer], right: list[Answer]) -> dict[str, float]:
    pairs = list(zip(found, right, strict=True))
    errors = {
        "velocity": [relative_error(a.velocity_BCHW, b.velocity_BCHW) for a, b in pairs],
        "gradient": [agreement(a.gradient, b.gradient).relative for a, b in pairs],
    }
    return {name: (sum(e * e for e in each) / len(each)) ** 0.5 for name, each in errors.items()}
