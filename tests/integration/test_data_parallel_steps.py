"""Steps of an adapter on several ranks: they equal those of one process, and all ranks agree."""

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
import torch

from tests.support.rank_steps import Case, Taken, start_ranks

FEW = (
    Case(dtype="float64"),
    Case(base="int8-quanto", optimizer="optimi-lion", clip="value", steps=1),
    Case(lora=True, steps=1, graphs=True),
)
ALL = tuple(
    Case(lora=lora, base=base, optimizer=optimizer, clip=clip, dtype=dtype)
    for lora, base, optimizer, clip, dtype in product(
        (False, True),
        ("no_change", "int8-quanto"),
        ("adamw", "optimi-adamw", "optimi-lion", "prodigy", "bnb-lion8bit-paged"),
        ("norm", "value"),
        ("float32", "float64"),
    )
    # Quanto has no float64, nor have the library's optimizers for it.
    if dtype == "float32" or (base == "no_change" and optimizer in ("adamw", "optimi-adamw"))
)


def check(tiny: Path, folder: Path, cases: Sequence[Case], ranks: int) -> None:
    (alone,) = start_ranks(tiny, folder / "one", cases, 1)
    of_ranks = start_ranks(tiny, folder / "several", cases, ranks, folder / "one")

    for number, case in enumerate(cases):
        one, several = alone[number], [taken[number] for taken in of_ranks]
        for other in several[1:]:
            assert other.metrics == several[0].metrics, case
            assert_equal_bits(several[0], other)
        assert_equal(one, several[0], case)


def assert_equal_bits(one: Taken, other: Taken) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for name, value in one.tensors.items():
        assert torch.equal(value, other.tensors[name]), name


def assert_equal(one: Taken, other: Taken, case: Case) -> None:
    """Of all steps in float64, of the first one in float32: its rounding changes the weights."""
    exact = case.dtype == "float64"
    for step, (expected, found) in enumerate(zip(one.metrics, other.metrics, strict=True)):
        if step > 0 and not exact:
            break
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6), case
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-6), case
        assert found["grad_max"] == pytest.approx(expected["grad_max"], rel=1e-6), case
        assert found["loss_by_sigma"] == pytest.approx(expected["loss_by_sigma"], rel=1e-6), case
    assert one.tensors.keys() == other.tensors.keys()
    if not exact and case.steps > 1:
        return
    # Of the first step the moments: they are the gradients, whose signs alone Lion's weights show.
    compared = [name for name in one.tensors if exact or name.endswith("/exp_avg")]
    assert compared
    for name in compared:
        value = one.tensors[name]
        limit = 1e-12 if value.dtype is torch.float64 else 1e-6
        assert distance(other.tensors[name], value) < limit, (case, name)


def distance(found: torch.Tensor, right: torch.Tensor) -> float:
    off, size = (found.double() - right.double()).norm().item(), right.double().norm().item()
    return off / size if size else (0.0 if off == 0 else math.inf)


def test_two_ranks_take_the_steps_of_one_process(tiny_folder: Path, tmp_path: Path) -> None:
    check(tiny_folder, tmp_path, FEW, ranks=2)


@pytest.mark.deep
@pytest.mark.parametrize(("wrote", "reads"), [(2, 1), (2, 4), (4, 1), (4, 2)])
def test_a_checkpoint_is_of_no_number_of_ranks(
    tiny_folder: Path, tmp_path: Path, wrote: int, reads: int
) -> None:
    """The checks are in ``rank_steps``; ``check`` has those of one process read by several."""
    start_ranks(tiny_folder, tmp_path / "wrote", FEW, wrote)
    start_ranks(tiny_folder, tmp_path / "reads", FEW, reads, tmp_path / "wrote")


@pytest.mark.deep
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_kind_takes_the_steps_of_one_process(
    tiny_folder: Path, tmp_path: Path, ranks: int
) -> None:
    check(tiny_folder, tmp_path, ALL, ranks)
