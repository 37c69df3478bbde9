"""``python -m services.results``."""

from services.processes.threads import leave
from services.results.main import main

if __name__ == "__main__":
    leave(main())
