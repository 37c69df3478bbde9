"""The operator's list of base models; it is read again when one of its descriptions changes."""

import threading
from collections.abc import Mapping
from pathlib import Path

from trainer_core.base_models.describe import DESCRIPTION_NAME, BaseModel, read_base_models


class BaseModels:
    """A cache of the list; safe to share among threads."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._lock = threading.Lock()
        self._seen: tuple[tuple[str, int], ...] | None = None
        self._models: Mapping[str, BaseModel] = {}

    def read(self) -> Mapping[str, BaseModel]:
        """Base models by name; raises BaseModelError where the list cannot be read."""
        with self._lock:
            seen = self._descriptions()
            if seen is None or seen != self._seen:
                self._models = read_base_models(self._models_dir)
                self._seen = seen
            return self._models

    def _descriptions(self) -> tuple[tuple[str, int], ...] | None:
        """Each description with its time of change; None where the folder changes meanwhile."""
        try:
            found = sorted(self._models_dir.glob(f"*/{DESCRIPTION_NAME}"))
            return tuple((str(path), path.stat().st_mtime_ns) for path in found)
        except OSError:
            return None
