"""Runs of `reverie validate` in the process of the test, on the published files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from services.cli.connection import Invocation
from services.cli.program import app
from tests.unit.config_examples import (
    CONFIG_TEXT,
    LYCORIS_TEXT,
    NAMED_PRESET,
    REGULARISATION,
    SUBJECT,
    TEXT_EMBEDS,
)
from trainer_core.documents import parse_document

KEYS = {
    *("trainable_modules", "trainable_parameters", "steps", "epochs", "buckets", "memory"),
    *("notices", "warnings", "data", "contact_sheet"),
    *("errors", "used_files", "plan_digest", "matmul", "deterministic", "cards", "sharding"),
}

Answer = tuple[int, dict[str, Any]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The published files, all in one folder, and an image each; they name it by longer paths."""
    folder = tmp_path / "project" / "config"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(CONFIG_TEXT)
    (folder / "lycoris_config.json").write_text(LYCORIS_TEXT)
    lycoris: Any = parse_document(LYCORIS_TEXT, name="l")
    named = {**lycoris, "apply_preset": NAMED_PRESET}
    (folder / "lycoris_config.no-experts.json").write_text(json.dumps(named))
    write(folder / "multidatabackend.json", [TEXT_EMBEDS, REGULARISATION, SUBJECT])
    for backend in (REGULARISATION, SUBJECT):
        images = folder.parent / backend["instance_data_dir"]
        images.mkdir(parents=True)
        Image.new("RGB", (1100, 1100)).save(images / "a.png")
    return folder


@pytest.fixture
def validate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Runs the command in this process: exit status, and the JSON it printed. No model is here."""
    monkeypatch.chdir(tmp_path)

    def run(folder: Path, *arguments: str, **env: str) -> Answer:
        env = {"REVERIE_HOME": str(tmp_path / "home"), **env}
        command = ["validate", "--config", str(folder), "--json", *arguments]
        status = app(command, obj=Invocation(env=env), standalone_mode=False)
        (line,) = capsys.readouterr().out.splitlines()
        answer = json.loads(line)
        assert answer.keys() == KEYS
        return int(status or 0), answer

    return run


def write(path: Path, body: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body))
