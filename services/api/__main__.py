"""``python -m services.api``."""

import importlib
import os
import shutil
import sys
import tempfile

if __name__ == "__main__":
    # Where the processes of the API add up their metrics. prometheus_client reads it on import.
    folder = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="reverie-metrics-")
    first_pid = os.getpid()
    try:
        sys.exit(importlib.import_module("services.api.main").main(sys.argv[1:]))
    finally:
        if os.getpid() == first_pid:  # not one of the forked ones
            shutil.rmtree(folder, ignore_errors=True)
