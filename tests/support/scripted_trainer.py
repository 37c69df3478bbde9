"""The trainer process of ``services.trainer``; its training process is a script, without torch."""

import os
import sys
from pathlib import Path

from services.trainer.main import main

BEHAVIOUR = "TESTS_BEHAVIOUR"
"""Environment variable: what the training process does, see the script."""
_SCRIPT = Path(__file__).parents[1] / "integration" / "trainer_supervisor_child.py"


def program(behaviour: str) -> tuple[str, ...]:
    """The training program that behaves so."""
    return (sys.executable, str(_SCRIPT), behaviour)


if __name__ == "__main__":
    sys.exit(main(program(os.environ[BEHAVIOUR])))
