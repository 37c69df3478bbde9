"""`reverie train`: the training process itself, as a trainer starts it."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    job: Annotated[Path, typer.Option(help="The job file: plan, data index and folders.")],
    events: Annotated[Path, typer.Option(help="One JSON event a line is appended here.")],
    control: Annotated[Path, typer.Option(help="Read between steps: run, pause or stop.")],
) -> None:
    """Train one prepared job in this terminal, without the service.

    The job file is what a trainer writes. Training straight from a folder of configuration files
    without the service is not there yet: use `reverie up` and `reverie runs submit` for that.
    """
    arguments = ["--job", str(job), "--events", str(events), "--control", str(control)]
    sys.stdout.flush()
    # The process becomes the trainer, so that signals and the exit status are its own.
    os.execv(sys.executable, [sys.executable, "-m", "trainer_core", "train", *arguments])  # noqa: S606
