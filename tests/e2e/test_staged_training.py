"""The commands of docs/how-to/train-in-stages.md, at lower resolutions and on the tiny model."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.jobs import Event, events_in
from tests.support.local_runs import adapter_of
from tests.support.small_jobs import named
from tests.support.staged import commands, make_stages, small

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stages(tmp_path_factory.mktemp("project")).parent


def run(words: list[str], project: Path, models_dir: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "services.cli.main", *words],
        cwd=project,
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "REVERIE_MODELS_DIR": str(models_dir),
        },
    )


def losses(events: list[Event]) -> list[float]:
    return [event["mean"] for event in named(events, "eval")]


@pytest.mark.parametrize("steps", [4, pytest.param(60, marks=pytest.mark.deep)])
def test_the_second_stage_trains_on_from_the_first_one(
    steps: int, project: Path, tiny_models_dir: Path
) -> None:
    first, second = (small(words, steps) for words in commands("train"))
    runs = project / "runs"

    for words in (first, second):
        ended = run(words, project, tiny_models_dir)
        assert ended.returncode == 0, ended.stderr[-2000:]

    before, after = events_in(runs / "128"), events_in(runs / "256")
    assert [event["step"] for event in named(after, "step")] == list(range(1, steps + 1))
    assert losses(after)[0] != losses(before)[1]  # of another resolution
    assert adapter_of(runs / "256").keys() == adapter_of(runs / "128").keys()
    assert adapter_of(runs / "256") != adapter_of(runs / "128")

    at_128 = [*first, "--set", "init_lora=runs/128", "--set", "max_train_steps=1"]
    own = run(at_128, project, tiny_models_dir)
    assert own.returncode == 1
    assert "which is in the output folder of this run: give the run another" in own.stderr
    if steps > 4:
        output = str(runs / "again")
        ended = run([*at_128, "--output", output], project, tiny_models_dir)
        assert ended.returncode == 0, ended.stderr[-2000:]
        assert losses(events_in(runs / "again"))[0] == losses(before)[1] < losses(before)[0]
    for folder in runs.iterdir():
        folder.rename(folder.with_name(f"{folder.name}-after-{steps}"))
