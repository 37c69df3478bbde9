"""The adapter that a run starts from, as the service names and stores it."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from trainer_core.checkpoint.layout import checkpoint_name
from trainer_core.export.origin import ADAPTER_NAME

HOW_NAMED: Final = (
    "name a run of yours (run_…, or run_…/checkpoints/step-00000500 for a checkpoint of it), or a "
    "dataset with an adapter file (ds_…, or ds_…/PATH where it has several)"
)
LARGEST_FILE_BYTES: Final = 16 << 30
"""The state of a checkpoint has the optimizer's tensors, too."""

_RUN: Final = re.compile(
    rf"(run_[0-9a-f]{{32}})(?:/result(?:/{re.escape(ADAPTER_NAME)})?"
    r"|/checkpoints/step-([0-9]{1,10})(?:/state\.safetensors)?)?/?"
)
_DATASET: Final = re.compile(r"(ds_[0-9a-f]{32})(?:/(.+))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class StartName:
    """What ``init_lora`` names."""

    source: str
    """Id of a run or of a dataset."""
    step: int | None = None
    """Of a checkpoint of the run; None: its result."""
    path: str | None = None
    """Of a file of the dataset; None: its only adapter."""


def parse_start(text: str) -> StartName | None:
    """None where the text names neither a run nor a dataset."""
    if found := _RUN.fullmatch(text):
        return StartName(source=found[1], step=None if found[2] is None else int(found[2]))
    if found := _DATASET.fullmatch(text):
        return StartName(source=found[1], path=found[2])
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class StartObject:
    """One stored file of the adapter."""

    name: str
    """Under which the training process finds it."""
    key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredStart:
    """The files of the adapter that a run starts from."""

    source: str
    """Id of the run or dataset that they belong to; it is not deleted before this run ends."""
    step: int | None
    """Of the checkpoint of that run; None for a result or a dataset."""
    files: tuple[StartObject, ...]
    """The adapter file; or the state and the manifest of a checkpoint."""
    path: str | None = None
    """Of the file in the dataset, where it was named by it."""

    def as_json(self) -> dict[str, Any]:
        """As it is stored with the run."""
        return asdict(self)


def start_from_json(stored: Mapping[str, Any]) -> StoredStart:
    """The inverse of ``StoredStart.as_json``; raises LookupError or TypeError for anything else."""
    files = tuple(StartObject(**each) for each in stored["files"])
    return StoredStart(
        source=stored["source"], step=stored["step"], files=files, path=stored.get("path")
    )


def shown(start: StoredStart) -> str:
    """What it is called in messages and answers, as ``init_lora`` may name it."""
    if start.step is None:
        return start.source if start.path is None else f"{start.source}/{start.path}"
    return f"{start.source}/checkpoints/{checkpoint_name(start.step)}"
