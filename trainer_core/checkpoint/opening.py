"""Open the checkpoint that a path means, to read it, while its run may still be training.

Nothing is locked and nothing is written. A run deletes and replaces its checkpoints by renaming
their folders, and an opened file stays readable, so a checkpoint that was opened is read whole.
Imports no torch.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from trainer_core.checkpoint.folders import (
    check_sizes,
    has_state,
    step_in,
    stored_checkpoints,
)
from trainer_core.checkpoint.layout import CheckpointManifest, FileFacts, checkpoint_name
from trainer_core.errors import CheckpointCorruptError, CheckpointError, NoWholeCheckpointError
from trainer_core.progress import Reporter

CHECKPOINTS: Final = "checkpoints"
"""The folder of checkpoints in the output folder of a run."""
_BLOCK_BYTES: Final = 4 << 20
_TRIES: Final = 50
"""The newest checkpoint may be deleted while it is looked for; each time there is a newer one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenCheckpoint:
    """A whole checkpoint: its files were compared with its manifest."""

    folder: Path
    """It may be deleted meanwhile."""
    manifest: CheckpointManifest
    state: Mapping[str, BinaryIO]
    """Its state files by name."""
    damaged: tuple[str, ...] = ()
    """Of each newer checkpoint, what is wrong with it; empty where this one was named."""


class _ChangedError(Exception):
    """The folder was deleted or replaced before it was open."""


def is_checkpoint(place: Path) -> bool:
    """Whether a path is the folder of one checkpoint, even a damaged one."""
    return place.is_dir() and (step_in(place.name) is not None or has_state(place))


def holds_checkpoints(place: Path) -> bool:
    """Whether a path is an output folder, or another folder of checkpoints."""
    return bool(_named_in(_folder_of(place)))


@contextlib.contextmanager
def open_checkpoint(place: Path, step: int | None, reporter: Reporter) -> Iterator[OpenCheckpoint]:
    """Open a checkpoint and compare it with its manifest.

    Args:
        place: the folder of a checkpoint; or the output folder of a run, or another folder with
            checkpoints, of which the newest whole one is taken.
        step: the step of another one in the folder; None where ``place`` is a checkpoint.
        reporter: gets progress of reading the file.

    Raises:
        NoWholeCheckpointError: the folder has checkpoints, and all of them are damaged.
        CheckpointCorruptError: the named one is damaged; the message names the newest older one
            that can be used.
        CheckpointError: there is no such checkpoint.
    """
    if is_checkpoint(place):
        if step is not None:
            raise CheckpointError(
                f"{place} is one checkpoint: for a step, name the output folder of the run"
            )
        found = _open_named(place, reporter, is_step=False)
    elif step is not None:
        found = _open_named(_folder_of(place) / checkpoint_name(step), reporter, is_step=True)
    else:
        found = _open_newest(place, reporter)
    with contextlib.ExitStack() as stack:
        for file in found.state.values():
            stack.enter_context(file)
        yield found


def _folder_of(place: Path) -> Path:
    """The folder of checkpoints: in an output folder, or the folder itself."""
    return place / CHECKPOINTS if (place / CHECKPOINTS).is_dir() else place


def _open_named(folder: Path, reporter: Reporter, *, is_step: bool) -> OpenCheckpoint:
    for _ in range(_TRIES):
        try:
            return _open_whole(folder, reporter)
        except _ChangedError:
            continue
        except CheckpointCorruptError as error:
            older = _older(folder)
            if not older:
                raise CheckpointCorruptError(
                    f"{error.message}. There is no older one that is whole"
                ) from error
            way = f"--step {step_in(older[-1].name)}" if is_step else str(older[-1])
            raise CheckpointCorruptError(
                f"{error.message}. The newest older one that is whole: {way}"
            ) from error
    raise CheckpointError(f"there is no checkpoint {folder}{_others(folder)}")


def _open_newest(place: Path, reporter: Reporter) -> OpenCheckpoint:
    folder = _folder_of(place)
    damaged: dict[Path, str] = {}
    changes = 0
    while changes < _TRIES:
        stored = stored_checkpoints(folder)
        damaged |= dict(stored.damaged)
        whole = [path for path in stored.whole if path not in damaged]
        if not whole:
            if _named_in(folder) <= {*stored.whole, *dict(stored.damaged)}:
                break
            changes += 1  # one came while the others were deleted
            continue
        try:
            found = _open_whole(whole[-1], reporter)
        except CheckpointCorruptError as error:
            damaged[whole[-1]] = error.message
        except _ChangedError:
            changes += 1
        else:
            newer = [path for path in damaged if _step(path) > found.manifest.step]
            why = tuple(damaged[path] for path in sorted(newer, key=_step))
            return replace(found, damaged=why)
    if damaged:
        raise NoWholeCheckpointError(
            f"none of the checkpoints in {folder} is whole: "
            f"{'; '.join(damaged[path] for path in sorted(damaged, key=_step, reverse=True))}"
        )
    raise CheckpointError(f"there is no checkpoint in {folder}")


def _named_in(folder: Path) -> set[Path]:
    """What has the name of a checkpoint."""
    found = folder.iterdir() if folder.is_dir() else ()
    return {path for path in found if step_in(path.name) is not None}


def _open_whole(folder: Path, reporter: Reporter) -> OpenCheckpoint:
    """Raises CheckpointCorruptError, or _ChangedError where the folder is another one meanwhile."""
    before = _inode_of(folder)
    if before is None:
        raise _ChangedError
    with contextlib.ExitStack() as stack:
        try:
            # Files of a folder that is replaced meanwhile have other digests than this manifest.
            manifest = check_sizes(folder)
            state = {
                name: stack.enter_context((folder / name).open("rb")) for name in manifest.files
            }
            if step_in(folder.name) not in (None, manifest.step):
                raise CheckpointCorruptError(
                    f"{folder.name} has the manifest of step {manifest.step}"
                )
            _check_digests(state, folder, manifest.files, reporter)
        except FileNotFoundError as error:
            _check_unchanged(folder, before)
            name = Path(error.filename).name
            raise CheckpointCorruptError(f"{folder.name}/{name} is missing") from error
        except CheckpointError:
            _check_unchanged(folder, before)
            raise
        stack.pop_all()
    return OpenCheckpoint(folder=folder, manifest=manifest, state=state)


def _check_digests(
    state: Mapping[str, BinaryIO],
    folder: Path,
    files: Mapping[str, FileFacts],
    reporter: Reporter,
) -> None:
    size_bytes, done = sum(facts.size_bytes for facts in files.values()), 0
    for name, facts in files.items():
        digest, start = hashlib.sha256(), done
        while block := state[name].read(_BLOCK_BYTES):
            digest.update(block)
            done += len(block)
            reporter.progress("checking", done, size_bytes)
            reporter.check_control()
        if done - start != facts.size_bytes or digest.hexdigest() != facts.sha256:
            raise CheckpointCorruptError(
                f"{folder.name}/{name} is damaged: its SHA-256 is not the one in its manifest"
            )


def _check_unchanged(folder: Path, before: tuple[int, int]) -> None:
    if _inode_of(folder) != before:
        raise _ChangedError


def _inode_of(folder: Path) -> tuple[int, int] | None:
    """What tells the folder from another one of its name; None where there is none."""
    try:
        facts = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return facts.st_ino, facts.st_mtime_ns


def _older(folder: Path) -> list[Path]:
    """The whole checkpoints beside one of the name of a checkpoint, that are older."""
    stored = stored_checkpoints(folder.parent).whole
    return [path for path in stored if _step(path) < _step(folder)]


def _step(folder: Path) -> int:
    """0 where the folder has not the name of a checkpoint."""
    return step_in(folder.name) or 0


def _others(folder: Path) -> str:
    steps = [str(_step(path)) for path in stored_checkpoints(folder.parent).whole]
    return f"; there are those of the steps {', '.join(steps)}" if steps else ""
