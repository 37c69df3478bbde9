"""``python -m services.results``."""

import sys

from services.results.main import main

if __name__ == "__main__":
    sys.exit(main())
