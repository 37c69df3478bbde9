"""The start of `reverie`: Ctrl-C ends it quietly even while its commands are being imported."""

import sys
from typing import Final

_EXIT_INTERRUPTED: Final = 130


def main() -> None:
    """Run one command; see ``services.cli.main``."""
    try:
        from services.cli.main import main as run  # takes half a second

        run()
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)
