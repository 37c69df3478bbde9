"""The certificates that processes of the tests trust: a single one.

To read the usual hundred and more takes 0.05 CPU seconds for each client of HTTP, and tests make
thousands of clients. Those that talk TLS name the authority of their own server.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import certifi

_FILE: Final = "SSL_CERT_FILE"
_BEFORE: Final = "TESTS_SSL_CERT_FILE_BEFORE"
_END: Final = "-----END CERTIFICATE-----\n"


def trust_one(folder: Path) -> None:
    """Set the variable for this process and those that it starts; the file is in ``folder``."""
    if _BEFORE not in os.environ:
        first, end, _ = certifi.contents().partition(_END)
        file = folder / "trusted.pem"
        file.write_text(first + end)
        os.environ[_BEFORE] = os.environ.get(_FILE, "")
        os.environ[_FILE] = str(file)


def outside() -> Mapping[str, str]:
    """The environment of a process that asks hosts of the Internet."""
    own = {name: value for name, value in os.environ.items() if name != _FILE}
    return {**own, _FILE: before} if (before := os.environ[_BEFORE]) else own
