"""``python -m services.cache_builder.indexing``; the cache builder starts it."""

import sys

from services.cache_builder.indexing.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
