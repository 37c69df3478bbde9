"""`python -m trainer_core make-painter`: makes the base model that paints, from nothing."""

import os
import sys
import time
from pathlib import Path
from typing import Literal

import torch

from trainer_core.errors import GpuMissingError, TrainerError
from trainer_core.painter.judging import Device
from trainer_core.painter.recipe import Recipe, make
from trainer_core.painter.scales import SCALES


def run(
    folder: Path,
    *,
    scale: str,
    device: Literal["auto", "cpu", "cuda"],
    processes: int | None,
    train_s: float | None,
) -> int:
    """Make the model in ``folder``, and print the stages and the report's path.

    Returns 0, or 1 with a line on stderr where a stage fails.
    """
    started_s = time.monotonic()

    def log(text: str) -> None:
        print(f"{time.monotonic() - started_s:7.1f} s  {text}", flush=True)  # noqa: T201 - progress

    try:
        recipe = Recipe(
            folder=folder.absolute(),
            scale=SCALES[scale],
            device=_device(device),
            processes=processes or os.cpu_count() or 1,
            log=log,
            train_s=train_s,
        )
        make(recipe)
    except TrainerError as error:
        print(error.message, file=sys.stderr)  # noqa: T201 - the caller shows the last line
        return 1
    print(folder / "report.json")  # noqa: T201 - the command's output
    return 0


def _device(wanted: Literal["auto", "cpu", "cuda"]) -> Device:
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise GpuMissingError("this machine has no cuda device: use --device cpu or auto")
    return "cuda" if has_cuda and wanted != "cpu" else "cpu"
