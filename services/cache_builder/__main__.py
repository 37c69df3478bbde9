"""``python -m services.cache_builder``."""

from services.cache_builder.main import main
from services.processes.threads import leave

if __name__ == "__main__":
    leave(main())
