"""Training processes that start fast: each is a fork that has imported all modules."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.forking import TRAINING, start_module
from tests.support.jobs import Event, train

_DEADLINE_S = 240
_COMMAND = "services.cli.main"


class Zygote:
    """Runs them to their end."""

    def train(
        self, job: Mapping[str, Any], folder: Path, env: Mapping[str, str] | None = None
    ) -> tuple[int, list[Event]]:
        """As ``tests.support.jobs.train``: exit status, and all events in ``folder`` so far."""
        return train(job, folder, env)

    def run(
        self, module: str, argv: Sequence[str], output: Path, env: Mapping[str, str] | None = None
    ) -> int:
        """Exit status of ``python -m MODULE ARGV``, which prints to ``output``."""
        own = {**os.environ, **dict(TRAINING.env), **(env or {})}
        with output.open("wb") as opened:
            process = start_module(module, argv, env=own, output=opened, kind=TRAINING)
        return process.wait(_DEADLINE_S)

    def reverie(
        self, argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Exit status of a ``reverie`` command, and all that it printed.

        Args:
            argv: what follows ``reverie``; paths in it are absolute.
            log: gets what it prints, too.
            env: set in its process.
        """
        status = self.run(_COMMAND, [str(each) for each in argv], log, env)
        return status, log.read_text()


@pytest.fixture(scope="session")
def zygote() -> Zygote:
    return Zygote()
