"""``python -m services.cache_builder``."""

import importlib
import os
import sys
import tempfile

if __name__ == "__main__":
    # Where the indexer adds its metrics to the builder's. prometheus_client reads it on import.
    with tempfile.TemporaryDirectory(prefix="reverie-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        sys.exit(importlib.import_module("services.cache_builder.main").main())
