"""What an attempt takes of the scratch disk besides the cache entries in their folder."""

import os
from pathlib import Path
from typing import Final

from services.processes.holes import used_bytes
from services.trainer.commits import WAITING_CHECKPOINTS
from trainer_core.process.events import Event

_BYTES_A_PARAMETER: Final = 16
"""Of a checkpoint: the weight, two moments of the optimizer and a mean, each in fp32."""
_BYTES_IN_ADAPTER_FILE: Final = 4
"""Of a parameter."""


class ScratchUse:
    """Checkpoints, present and to come, and other files."""

    def __init__(
        self,
        folder: Path,
        shards_dir: Path,
        *,
        adapter_files: int,
        checkpoint_bytes: int | None,
    ) -> None:
        """
        Args:
            folder: of the attempt; ``shards_dir`` is below it and is not counted.
            adapter_files: how many a checkpoint has.
            checkpoint_bytes: of the newest checkpoint; None without one.
        """
        self._folder = folder
        self._shards_dir = shards_dir
        self._checkpoints_dir = folder / "output" / "checkpoints"
        self._checkpoint_bytes = checkpoint_bytes
        self._bytes_a_parameter = _BYTES_A_PARAMETER + adapter_files * _BYTES_IN_ADAPTER_FILE

    def note(self, event: Event) -> None:
        """Take an event of the training process: a checkpoint, or the number of its parameters."""
        if event.name == "checkpoint":
            self._checkpoint_bytes = int(event.data.get("size_bytes", 0))
        elif event.name == "plan" and self._checkpoint_bytes is None:
            parameters = int(event.data.get("trainable_parameters", 0))
            self._checkpoint_bytes = parameters * self._bytes_a_parameter

    def bytes_taken(self) -> int:
        """Space for all checkpoints that may wait for their upload is taken from the start."""
        checkpoints = others = 0
        for parent, _, names in os.walk(self._folder):  # unlike rglob, passes over what vanishes
            folder = Path(parent)
            if folder.is_relative_to(self._shards_dir):
                continue
            size_bytes = sum(_size_of(folder / name) for name in names)
            if folder.is_relative_to(self._checkpoints_dir):
                checkpoints += size_bytes
            else:
                others += size_bytes
        to_come = WAITING_CHECKPOINTS * (self._checkpoint_bytes or 0)
        return others + max(checkpoints, to_come)


def _size_of(path: Path) -> int:
    """0 for what was deleted meanwhile."""
    try:
        return used_bytes(path.lstat())
    except OSError:
        return 0
