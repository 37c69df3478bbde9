"""A rank of an adapter sees its own GPU alone."""

import pytest

from tests.unit.config_examples import import_small
from trainer_core.process.own_card import see_own_card

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECOND = {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("shown", "expected"), [(None, "1"), ("4,7", "7"), ("GPU-a, GPU-b", "GPU-b"), ("4", "")]
)
def test_the_second_rank_sees_the_second_gpu(shown: str | None, expected: str) -> None:
    env = SECOND if shown is None else {**SECOND, VISIBLE: shown}
    env = dict(env)

    see_own_card(import_small().plan, env)

    assert env[VISIBLE] == expected


def test_one_process_and_deepspeed_see_all_gpus() -> None:
    full = import_small({"model_type": "full", "world_size": 2}, without=("lora_type",)).plan
    for plan, given in ((import_small().plan, {}), (full, SECOND)):
        env = dict(given)

        see_own_card(plan, env)

        assert env == given
