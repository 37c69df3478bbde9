"""`reverie models`: how an operator registers base models, and how runs then find them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from services.cli.connection import CommandError, Invocation
from services.cli.program import app
from tests.unit.config_examples import TINY_CONFIG
from trainer_core.base_models.describe import listed_base_models
from trainer_core.base_models.resolve import Listed, resolve
from trainer_core.errors import BaseModelError

Models = Callable[..., str]


@pytest.fixture
def models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Models:
    """Runs a sub-command of `reverie models`; what it printed on stdout."""
    monkeypatch.setenv("REVERIE_MODELS_DIR", str(tmp_path))

    def run(*arguments: str | Path) -> str:
        capsys.readouterr()
        command = ["models", *map(str, arguments)]
        app(command, obj=Invocation(env={}), standalone_mode=False)
        return capsys.readouterr().out

    return run


def test_a_registered_folder_is_listed_and_found_by_its_name(
    tmp_path: Path, models: Models
) -> None:
    transformer = tmp_path / "folder" / "transformer"
    transformer.mkdir(parents=True)
    (transformer / "config.json").write_text(json.dumps(TINY_CONFIG))

    models("register", tmp_path / "folder", "--name", "owner/mine")

    (row,) = json.loads(models("list", "--json"))
    listed = listed_base_models({"REVERIE_MODELS_DIR": str(tmp_path)})
    assert row == {
        "name": "owner/mine",
        "digest": listed["owner/mine"].digest,
        "folder": str(tmp_path / "folder"),
    }
    assert resolve("owner/mine", listed, []) == Listed(listed["owner/mine"])
    assert row["digest"][:16] in models("list")


@pytest.mark.parametrize("content", [None, "[", "[]"])
def test_a_folder_without_a_transformer_is_not_registered(
    tmp_path: Path, models: Models, content: str | None
) -> None:
    transformer = tmp_path / "folder" / "transformer"
    transformer.mkdir(parents=True)
    if content is not None:
        (transformer / "config.json").write_text(content)

    with pytest.raises(BaseModelError, match=r"transformer/config\.json"):
        models("register", tmp_path / "folder", "--name", "mine")

    assert json.loads(models("list", "--json")) == []


def test_a_test_model_does_not_replace_a_folder(tmp_path: Path, models: Models) -> None:
    with pytest.raises(CommandError, match="exists already"):
        models("make-tiny", tmp_path)
