"""Jobs of a few steps on two photographs of each backend, 64 px wide."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import Event, make_job

STEPS = 3

Small = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def small_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where their shards are; the first job encodes them."""
    return tmp_path_factory.mktemp("shards")


def small_job(tiny: Path, shards: Path, folder: Path, **options: Any) -> dict[str, Any]:
    few = {"max_train_steps": STEPS, "checkpoint_step_interval": 2, "lr_warmup_steps": 2}
    return make_job(tiny, shards, folder, edge_px=64, count=2, **{**few, **options})


@pytest.fixture
def small(tiny_folder: Path, small_shards: Path, tmp_path: Path) -> Small:
    return partial(small_job, tiny_folder, small_shards, tmp_path)


def named(events: list[Event], name: str) -> list[Event]:
    return [event for event in events if event["event"] == name]
