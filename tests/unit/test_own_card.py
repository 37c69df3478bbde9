"""Each of several ranks of a machine sees its own GPU alone."""

import pytest

from tests.unit.config_examples import import_small
from trainer_core.errors import GpuMissingError
from trainer_core.process.own_card import see_own_card

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECOND = {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(("shown", "expected"), [("4,7", "7"), ("GPU-a, GPU-b,GPU-c", "GPU-b")])
def test_the_second_rank_sees_the_second_gpu_as_its_first(shown: str, expected: str) -> None:
    env = {**SECOND, VISIBLE: shown}

    see_own_card(import_small().plan.operation, env)

    assert env == {**SECOND, VISIBLE: expected, "LOCAL_RANK": "0"}


def test_a_rank_without_a_gpu_is_refused() -> None:
    with pytest.raises(GpuMissingError, match=r"2 ranks .* shows them 1 GPUs: start one rank for"):
        see_own_card(import_small().plan.operation, {**SECOND, VISIBLE: "4"})


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, {}),
        ({}, {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", VISIBLE: "4,7"}),
        ({}, {**SECOND, VISIBLE: ""}),
        ({"device": "cpu"}, {**SECOND, VISIBLE: "4"}),
    ],
)
def test_one_process_and_a_cpu_are_left_as_they_are(
    options: dict[str, str], given: dict[str, str]
) -> None:
    env = dict(given)

    see_own_card(import_small(options).plan.operation, env)

    assert env == given
