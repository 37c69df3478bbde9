"""The trainer process; a run that hurts says itself how its training process ends.

Its option ``tracker_run_name`` is a fault, such as ``train.after_step@2=kill`` (see
``trainer_core.faultpoints``). So healthy runs have the same workers.
"""

import json
import os
import runpy
import sys
from pathlib import Path


def _take_fault(arguments: list[str]) -> None:
    job = json.loads(Path(arguments[arguments.index("--job") + 1]).read_text(encoding="utf-8"))
    name = job["plan"]["operation"]["tracker_run_name"]
    if name.startswith("train."):
        os.environ["FAULT_AT"] = name


def _main() -> int:
    from services.trainer.main import main
    from tests.support.forked_trainer import SOCKET
    from tests.support.forked_training import child_command

    *interpreter, script, socket = child_command(os.environ[SOCKET])
    return main((*interpreter, str(Path(__file__).resolve()), script, socket))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(_main())
    # Started by the trainer in place of ``trainer_core``.
    _take_fault(sys.argv)
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
