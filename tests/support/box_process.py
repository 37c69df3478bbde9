"""The process of ``reverie worker --join`` on a rented machine; the test says what trains there."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from services.client.errors import ClientError
from services.remote.session import Trust
from services.trainer.join import join

_JOIN = "TESTS_JOIN"
"""Environment variable: address, file of certificates and training program, as JSON."""
_NOT_ON_A_BOX = ("DATABASE_URL", "BROKER_URL", "OBJECTS_URL", "SIGNING_KEY", "KEY_PEPPER")


def box_env(url: str, ca_file: Path, secret: str, program: Sequence[str]) -> dict[str, str]:
    """What a box is told: the service's address behind TLS, a key of its own, and nothing else."""
    return {
        **{f"REVERIE_{each}": "" for each in _NOT_ON_A_BOX},
        "REVERIE_WORKER_KEY": secret,
        _JOIN: json.dumps([url, str(ca_file), program]),
    }


if __name__ == "__main__":
    url, ca_file, program = json.loads(os.environ[_JOIN])
    try:
        sys.exit(join(url, Trust(ca_file=Path(ca_file)), program))
    except ClientError as error:  # as `reverie` itself prints it
        sys.exit(str(error))
