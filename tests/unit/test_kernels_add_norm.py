"""Residual sum, norm and modulation: kernels against PyTorch, PyTorch against diffusers."""

from typing import NamedTuple

import pytest
import torch
from diffusers.models.transformers.transformer_hidream_image import (
    HiDreamImageSingleTransformerBlock,
)

from tests.support.rows_in_8_bits import DTYPES, WITHOUT_CARRY, assert_near
from trainer_core.kernels.add_norm import AddNorm, add_norm, add_norm_plain, add_norm_triton

EPS = 1e-6


class Inputs(NamedTuple):
    hidden: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor
    update: torch.Tensor | None
    gate: torch.Tensor | None
    tail: torch.Tensor | None

    def to(self, dtype: torch.dtype) -> "Inputs":
        return Inputs(
            *(
                None if x is None else x.detach().to(dtype).requires_grad_(x.requires_grad)
                for x in self
            )
        )

    def trained(self) -> list[torch.Tensor]:
        return [x for x in self if x is not None and x.requires_grad]


def draw(
    B: int, S: int, T: int, F: int, *, has_update: bool = True, trained: str = "hidden update"
) -> Inputs:
    """Inputs in float64; ``trained`` names those that need a gradient."""
    generator = torch.Generator().manual_seed(B + S + T + F)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = Inputs(
        normal(B, S, F) * 3 + 1,
        normal(B, F),
        normal(B, F) / 2,
        normal(B, S, F) if has_update else None,
        normal(B, F) if has_update else None,
        normal(B, T, F) * 2 if T else None,
    )
    for name, x in inputs._asdict().items():
        if x is not None:
            x.requires_grad_(name in trained.split())
    return inputs


def run_plain(inputs: Inputs) -> AddNorm:
    hidden, shift, scale, update, gate, tail = inputs
    return add_norm_plain(
        hidden, shift, scale, update_BSF=update, gate_BF=gate, tail_BTF=tail, eps=EPS,
        dtype8=None,
    )  # fmt: skip


def run_triton(inputs: Inputs, *, dtype8: torch.dtype | None = None) -> AddNorm:
    hidden, shift, scale, update, gate, tail = inputs
    return add_norm_triton(
        hidden, shift, scale, update_BSF=update, gate_BF=gate, tail_BTF=tail, eps=EPS,
        dtype8=dtype8,
    )  # fmt: skip


def gradients(inputs: Inputs, outputs: AddNorm) -> list[torch.Tensor]:
    """Of a random sum over the outputs; the same numbers for every type."""
    generator = torch.Generator().manual_seed(7)
    results = [outputs.hidden_BSF, outputs.normed.value]
    steering = [
        torch.randn(*x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in results
    ]
    return list(torch.autograd.grad(results, inputs.trained(), steering))


def distance(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found.detach().double() - right.detach()).norm() / right.detach().norm())


ALL = "hidden shift scale update gate tail"


@pytest.mark.each_pair
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 6e-3)])
@pytest.mark.parametrize("shape", [(1, 5, 3, 16), (2, 4, 3, 50), (2, 3, 0, 33), (1, 2, 1, 2560)])
@pytest.mark.parametrize("has_update", [True, False])
@pytest.mark.parametrize("trained", ["hidden update", "hidden tail", "hidden gate scale", ALL])
def test_the_kernels_equal_the_plain_function(
    shape: tuple[int, int, int, int],
    has_update: bool,
    trained: str,
    dtype: torch.dtype,
    bound: float,
) -> None:
    inputs = draw(*shape, has_update=has_update, trained=trained).to(dtype)
    wide = inputs.to(torch.float64)
    right = run_plain(wide)

    found = run_triton(inputs)

    assert found.hidden_BSF.dtype == found.normed.value.dtype == dtype
    assert distance(found.hidden_BSF, right.hidden_BSF) < bound
    assert distance(found.normed.value, right.normed.value) < bound
    for one, other in zip(gradients(inputs, found), gradients(wide, right), strict=True):
        assert one.dtype == dtype
        assert distance(one, other) < bound


@pytest.mark.parametrize("used", ["hidden", "normed"])
def test_an_output_that_nobody_uses_has_no_share_in_the_gradient(used: str) -> None:
    inputs = draw(2, 4, 3, 16).to(torch.float32)
    wide = inputs.to(torch.float64)

    def of(outputs: AddNorm, given: Inputs) -> list[torch.Tensor]:
        chosen = outputs.hidden_BSF if used == "hidden" else outputs.normed.value
        return list(torch.autograd.grad(chosen.square().sum(), given.trained()))

    found, right = of(run_triton(inputs), inputs), of(run_plain(wide), wide)

    for one, other in zip(found, right, strict=True):
        assert distance(one, other) < 1e-6


def test_gradients_and_modulation_may_be_views() -> None:
    B, S, F = 2, 3, 16
    modulation = torch.randn(B, 12 * F, generator=torch.Generator().manual_seed(1))
    shift, scale, gate = modulation.chunk(12, dim=-1)[3:6]
    inputs = draw(B, S, 2, F).to(torch.float32)._replace(shift=shift, scale=scale, gate=gate)
    wide = inputs.to(torch.float64)

    def of(outputs: AddNorm, given: Inputs) -> list[torch.Tensor]:
        # The gradient of a sum is an expanded number, that of a turned tensor is strided.
        loss = outputs.normed.value.sum() + outputs.hidden_BSF.transpose(1, 2).contiguous().sum()
        return list(torch.autograd.grad(loss, given.trained()))

    found, right = of(run_triton(inputs), inputs), of(run_plain(wide), wide)

    for one, other in zip(found, right, strict=True):
        assert distance(one, other) < 1e-5


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_rows_in_8_bits_are_those_of_the_stored_value(dtype: torch.dtype) -> None:
    inputs = draw(2, 4, 3, 16, trained="hidden").to(torch.bfloat16)

    normed = run_triton(inputs, dtype8=dtype).normed

    assert normed.scale is not None
    assert normed.rows8 is not None
    assert normed.value.requires_grad
    assert not normed.scale.requires_grad
    assert normed.rows8.dtype == dtype
    rows = normed.value.detach().flatten(0, 1)
    assert_near(normed.rows8, normed.scale, rows, WITHOUT_CARRY)


@pytest.mark.parametrize("is_autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_plain_function_rounds_as_diffusers(dtype: torch.dtype, is_autocast: bool) -> None:
    block = HiDreamImageSingleTransformerBlock(32, 2, 16, num_routed_experts=0)
    hidden, shift, scale, update, gate, tail = draw(2, 4, 3, 32).to(dtype)
    assert update is not None
    assert gate is not None
    assert tail is not None

    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        found = add_norm(
            hidden, shift, scale, update_BSF=update, gate_BF=gate, tail_BTF=tail, eps=EPS
        )
        summed = gate[:, None] * update + hidden
        rows = torch.cat([summed, tail], dim=1)
        right = block.norm1_i(rows).to(dtype) * (1 + scale[:, None]) + shift[:, None]

    assert torch.equal(found.hidden_BSF, summed)
    assert torch.equal(found.normed.value, right)
    assert found.normed.rows8 is None


def test_an_update_needs_its_gate() -> None:
    hidden, shift, scale, update, _, _ = draw(1, 2, 0, 16)

    with pytest.raises(ValueError, match="gate"):
        add_norm(hidden, shift, scale, update_BSF=update)
