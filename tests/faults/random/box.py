"""The process of ``reverie worker --join``; its training processes start as forks."""

import os
import sys
from pathlib import Path

from services.client.errors import ClientError
from services.remote.session import Trust
from services.trainer.join import join
from tests.faults.random.trainer import SOCKET
from tests.support.forked_training import child_command

JOIN_URL = "TESTS_JOIN_URL"
"""Environment variable: the address that it joins."""
CA_FILE = "TESTS_CA_FILE"
"""Environment variable: the certificate that it trusts."""

if __name__ == "__main__":
    trust = Trust(ca_file=Path(os.environ[CA_FILE]))
    try:
        sys.exit(join(os.environ[JOIN_URL], trust, child_command(os.environ[SOCKET])))
    except ClientError as error:  # as `reverie` itself prints it
        sys.exit(str(error))
