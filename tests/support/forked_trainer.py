"""The trainer process of ``services.trainer``; its training processes start as forks."""

import os
import sys

from services.trainer.main import main
from tests.support.forked_training import child_command

SOCKET = "TESTS_TRAINING_SERVER"
"""Environment variable: the socket of the server that forks."""

if __name__ == "__main__":
    sys.exit(main(child_command(os.environ[SOCKET])))
