"""``python -m services.trainer``."""

from services.processes.threads import leave
from services.trainer.main import main

if __name__ == "__main__":
    leave(main())
