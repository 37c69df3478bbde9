"""Runs into one folder, and few photographs that a test may change."""

import shutil
from pathlib import Path

import pytest

from tests.support.jobs import EXAMPLES, demo_plan
from tests.support.local_attempts import Runs
from trainer_core.base_models.describe import read_base_model
from trainer_core.base_models.obtain import FoundBase
from trainer_core.local.attempt import Attempt


@pytest.fixture
def runs(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Nothing is encoded or trained, which would take most of the time: how a run starts depends on
    the files in its folder alone."""
    base = read_base_model(tiny_folder)
    photos = {"photos": EXAMPLES / "photos" / "train", "held-out": EXAMPLES / "photos" / "held_out"}
    found = FoundBase(
        name=base.name,
        transformer_config=base.transformer_config,
        obtain=lambda reporter, fourth: base,
    )
    (tmp_path / "out").mkdir()
    runs = Runs(demo_plan(base, edge_px=64), found, tmp_path / "out", photos)
    monkeypatch.setattr(Attempt, "_fill_cache", lambda *_: None)
    monkeypatch.setattr(Attempt, "_run_training", lambda _, job, *__: runs.train(job))
    return runs


@pytest.fixture
def own_photos(runs: Runs, tmp_path: Path) -> Path:
    """Few photographs, of which the runs' are copies that a test may change."""
    folders: dict[str, Path] = {}
    for backend, folder in runs.data.items():
        folders[backend] = tmp_path / "own" / backend
        folders[backend].mkdir(parents=True)
        for picture in sorted(folder.glob("*.jpg"))[:2]:
            for file in (picture, picture.with_suffix(".txt")):
                shutil.copy(file, folders[backend])
    runs.data = folders
    return folders["photos"]
