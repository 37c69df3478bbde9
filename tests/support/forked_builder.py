"""The process ``services.cache_builder``; those that encode and admit runs start as forks."""

import os
import sys

from services.cache_builder.indexing.index import COMMAND
from services.cache_builder.main import main
from tests.support.forked_trainer import SOCKET
from tests.support.forked_training import child_command, module_command
from tests.support.forking import SERVICES, server_of

OWN_DISK = "TESTS_OWN_DISK"
"""Environment variable of a builder whose disk no fork would see."""


def _indexing() -> tuple[str, ...]:
    if OWN_DISK in os.environ:
        return COMMAND
    return module_command(server_of(SERVICES).address, "services.cache_builder.indexing")


if __name__ == "__main__":
    sys.exit(main(child_command(os.environ[SOCKET]), _indexing()))
