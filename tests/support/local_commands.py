"""`reverie` on this machine, on a small project and the tiny model, in forked processes."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.support.local_runs import make_project
from tests.support.zygote import Zygote

STEPS: Final = 3
_NUMBERS: Final = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Runs commands; each sees the tiny model as ``hidream-tiny``."""

    zygote: Zygote
    config: Path
    folder: Path
    """For logs, and for files of Reverie's own."""
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self, *argv: str | Path, **env: str) -> tuple[int, str]:
        """Exit status, and all that the command printed."""
        log = self.folder / f"command-{next(_NUMBERS)}.log"
        return self.zygote.reverie(argv, log, {**self.env, **env})

    def train(self, output: Path, *more: str | Path, **env: str) -> tuple[int, str]:
        """``reverie train`` into a folder: three steps, a checkpoint after each."""
        return self.run("train", "--config", self.config, "--output", output, *more, **env)

    def error_of(self, said: str) -> str:
        """The one error that a command printed; fails where it printed a traceback or several."""
        assert "Traceback" not in said, said
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        return line.removeprefix("error: ")


@pytest.fixture(scope="session")
def commands(
    zygote: Zygote, tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Commands:
    folder = tmp_path_factory.mktemp("commands")
    config = make_project(
        folder / "project",
        max_train_steps=STEPS,
        checkpoint_step_interval=1,
        checkpoints_total_limit=STEPS,
        lr_warmup_steps=1,
        use_ema=True,
        ema_decay=0.5,
        report_to="tensorboard",
    )
    env = {
        "REVERIE_MODELS_DIR": str(tiny_models_dir),
        "REVERIE_HOME": str(folder / "home"),
    }
    return Commands(zygote=zygote, config=config, folder=folder, env=env)


@pytest.fixture(scope="session")
def trained(commands: Commands) -> Path:
    """The output folder of a run that nothing disturbed; do not write to it."""
    output = commands.folder / "trained"
    status, said = commands.train(output)
    assert status == 0, said
    return output
