"""The process of ``reverie worker --join``; its training process is a script, without torch."""

import os
import sys
from pathlib import Path

from services.client.errors import ClientError
from services.remote.session import Trust
from services.trainer.join import join
from tests.support.scripted_trainer import BEHAVIOUR, SCRIPT

JOIN_URL = "TESTS_JOIN_URL"
"""Environment variable: the address that it joins."""
CA_FILE = "TESTS_CA_FILE"
"""Environment variable: the certificate that it trusts."""

if __name__ == "__main__":
    trust = Trust(ca_file=Path(os.environ[CA_FILE]) if CA_FILE in os.environ else None)
    command = (sys.executable, str(SCRIPT), os.environ[BEHAVIOUR])
    try:
        sys.exit(join(os.environ[JOIN_URL], trust, command))
    except ClientError as error:  # as `reverie` itself prints it
        sys.exit(str(error))
