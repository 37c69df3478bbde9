"""``python -m services.cache_builder``."""

import sys

from services.cache_builder.main import main

if __name__ == "__main__":
    sys.exit(main())
