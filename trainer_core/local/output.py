"""The output folder of a local run: one run at a time, and which checkpoint it goes on from."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from trainer_core.checkpoint.layout import MANIFEST_NAME, CheckpointManifest
from trainer_core.config.places import places_of
from trainer_core.config.plan import Plan
from trainer_core.data.index import DataIndex
from trainer_core.errors import Category, CheckpointError, TrainerError

_LOCK: Final = ".lock"
CHECKPOINTS: Final = "checkpoints"
RESULT: Final = "result"


class OutputInUseError(TrainerError):
    """Another run writes there."""

    code = "output_in_use"
    category: Category = "user"


@contextlib.contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """Hold the folder for this process; raises OutputInUseError naming the one that holds it.

    The kernel lets go when the process ends, however it ends.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / _LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise OutputInUseError(
                f"process {pid} trains into {output_dir} right now: wait for it, or give this run "
                "another --output"
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def find_checkpoint(wish: str, output_dir: Path, folders: Sequence[Path]) -> Path | None:
    """The checkpoint that a run goes on from; None: it starts afresh.

    Args:
        wish: ``latest``, empty, or a checkpoint's folder (also by name, within ``output_dir``).
        output_dir: of the run.
        folders: what a relative path is tried from.

    Raises:
        CheckpointError: ``wish`` names no whole checkpoint.
    """
    if not wish:
        return None
    if wish == "latest":
        return next((path for path in reversed(_standing(output_dir)) if _is_whole(path)), None)
    tried = places_of(wish, (output_dir / CHECKPOINTS, *folders))
    found = next((place for place in tried if place.is_dir()), None)
    if found is None:
        places = ", ".join(str(place) for place in tried)
        raise CheckpointError(
            f"resume_from_checkpoint names {wish}, which is no folder in any of: {places}"
        )
    if not _is_whole(found):
        raise CheckpointError(
            f"{found} is no whole checkpoint: its {MANIFEST_NAME}, or a file that this names, is "
            "missing or has another size"
        )
    return found


def step_of(checkpoint: Path) -> int:
    """The step of a whole checkpoint."""
    return _manifest(checkpoint).step


def belongs_here(checkpoint: Path, plan: Plan, index: DataIndex) -> bool:
    """Whether a whole checkpoint is of this plan, data and base model."""
    manifest = _manifest(checkpoint)
    return (manifest.identity_digest, manifest.data_digest, manifest.base_digest) == (
        plan.identity_digest(),
        index.digest(),
        plan.identity.base.digest,
    )


def set_aside(output_dir: Path, *, after_step: int) -> Path | None:
    """Move what another course of the run left out of the way: later checkpoints, the result.

    Without this ``latest`` would later find the newest step, not the newest run. Returns the folder
    where they are now, or None where there was nothing.
    """
    later = [path for path in _standing(output_dir) if not _is_up_to(path, after_step)]
    if not later:
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = output_dir / f"set-aside-{stamp}"
    aside.mkdir()
    result = output_dir / RESULT
    for path in (*later, *([result] if result.is_dir() else [])):
        path.rename(aside / path.name)
    return aside


def _standing(output_dir: Path) -> list[Path]:
    """Folders of checkpoints by step; drafts of killed processes are hidden."""
    try:
        found = [path for path in (output_dir / CHECKPOINTS).iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []
    return sorted(path for path in found if not path.name.startswith("."))


def _is_up_to(checkpoint: Path, step: int) -> bool:
    try:
        return step_of(checkpoint) <= step
    except (OSError, ValidationError):
        return False


def _is_whole(checkpoint: Path) -> bool:
    """By sizes; digests are compared when it is read."""
    try:
        files = _manifest(checkpoint).files
        return all(
            (checkpoint / name).stat().st_size == facts.size_bytes for name, facts in files.items()
        )
    except (OSError, ValidationError):
        return False


def _manifest(checkpoint: Path) -> CheckpointManifest:
    return CheckpointManifest.model_validate_json((checkpoint / MANIFEST_NAME).read_bytes())
