"""The tiny base model, created once a session."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of base models that holds the tiny one, as an operator's would."""
    from trainer_core.hidream.testing.tiny import make_tiny

    models_dir = tmp_path_factory.mktemp("base-models")
    make_tiny(models_dir / "hidream-tiny")
    return models_dir


@pytest.fixture(scope="session")
def tiny_folder(tiny_models_dir: Path) -> Path:
    """The folder of the tiny base model; do not write to it."""
    return tiny_models_dir / "hidream-tiny"
