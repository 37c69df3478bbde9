"""``python -m services.dispatcher``."""

import sys

from services.dispatcher.main import main

if __name__ == "__main__":
    sys.exit(main())
