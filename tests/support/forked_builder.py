"""The process ``services.cache_builder``; the processes that encode start as forks."""

import os
import sys

from services.cache_builder.main import main
from tests.support.forked_trainer import SOCKET
from tests.support.forked_training import child_command

if __name__ == "__main__":
    sys.exit(main(child_command(os.environ[SOCKET])))
