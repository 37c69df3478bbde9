"""The commands of docs/how-to/train-in-stages.md, at lower resolutions and on the tiny model."""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.support.forking import TRAINING, start_module
from tests.support.jobs import Event, events_in
from tests.support.local_runs import adapter_of
from tests.support.small_jobs import named
from tests.support.staged import commands, make_stages, small

FIRST_PX: Final = 64
SECOND_PX: Final = 128


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stages(tmp_path_factory.mktemp("project")).parent


def run(words: list[str], project: Path, models_dir: Path) -> tuple[int, str]:
    """Exit status of a ``reverie`` command in the project's folder, and what it printed."""
    log = project / "run.log"
    own = {**os.environ, **dict(TRAINING.env), "REVERIE_MODELS_DIR": str(models_dir)}
    with log.open("wb") as output:
        process = start_module(
            "services.cli.main", words, env=own, output=output, folder=project, kind=TRAINING
        )
    return process.wait(timeout=600), log.read_text()


def losses(events: list[Event]) -> list[float]:
    return [event["mean"] for event in named(events, "eval")]


@pytest.mark.parametrize("steps", [4, pytest.param(60, marks=pytest.mark.deep)])
def test_the_second_stage_trains_on_from_the_first_one(
    steps: int, project: Path, tiny_models_dir: Path
) -> None:
    first, second = (
        small(words, steps, first_px=FIRST_PX, second_px=SECOND_PX) for words in commands("train")
    )
    runs = project / "runs"

    for words in (first, second):
        status, said = run(words, project, tiny_models_dir)
        assert status == 0, said[-2000:]

    earlier, later = runs / str(FIRST_PX), runs / str(SECOND_PX)
    before, after = events_in(earlier), events_in(later)
    assert [event["step"] for event in named(after, "step")] == list(range(1, steps + 1))
    assert losses(after)[0] != losses(before)[1]  # of another resolution
    assert adapter_of(later).keys() == adapter_of(earlier).keys()
    assert adapter_of(later) != adapter_of(earlier)

    at_first = [*first, "--set", f"init_lora=runs/{FIRST_PX}", "--set", "max_train_steps=1"]
    status, said = run(at_first, project, tiny_models_dir)
    assert status == 1
    assert "which is in the output folder of this run: give the run another" in said
    if steps > 4:
        output = str(runs / "again")
        status, said = run([*at_first, "--output", output], project, tiny_models_dir)
        assert status == 0, said[-2000:]
        assert losses(events_in(runs / "again"))[0] == losses(before)[1] < losses(before)[0]
    for folder in runs.iterdir():
        folder.rename(folder.with_name(f"{folder.name}-after-{steps}"))
