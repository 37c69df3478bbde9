"""The trainer process of ``services.trainer`` with ``finishing.py`` as its training process."""

import sys
from pathlib import Path

from services.trainer.main import main

_FINISHING = str(Path(__file__).with_name("finishing.py"))

if __name__ == "__main__":
    sys.exit(main((sys.executable, "-I", "-S", _FINISHING)))
