"""The trainer process of ``services.trainer``; its training process is a script, without torch."""

import os
import sys
from pathlib import Path

from services.trainer.main import main

BEHAVIOUR = "TESTS_BEHAVIOUR"
"""Environment variable: what the training process does, see the script."""
SCRIPT = Path(__file__).parents[1] / "integration" / "trainer_supervisor_child.py"

if __name__ == "__main__":
    sys.exit(main((sys.executable, str(SCRIPT), os.environ[BEHAVIOUR])))
