"""Write checkpoint and result folders so that they appear complete or not at all."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import JsonValue

from trainer_core.checkpoint.folders import facts_of, restore_replaced
from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.layout import (
    ADAPTER_FILES,
    EMA,
    MANIFEST_NAME,
    PARAMETER,
    CheckpointManifest,
    FileFacts,
    ResultManifest,
    checkpoint_name,
    sealed,
    state_names,
)
from trainer_core.checkpoint.ranks import ALONE, CheckpointRanks
from trainer_core.checkpoint.state_files import Place
from trainer_core.checkpoint.write_state import write_state
from trainer_core.disk import DiskError, writing
from trainer_core.faultpoints import fault_point


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenFolder:
    """A folder under its final name."""

    path: Path
    manifest_sha256: str
    """Of manifest.json; it covers the other files, whose digests the manifest holds."""
    size_bytes: int
    """Of all files, including the manifest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFacts:
    """The facts in a checkpoint's manifest; see ``CheckpointManifest``."""

    step: int
    cursor: int
    run: CheckpointIdentity
    scalars: Mapping[str, JsonValue]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedTensors:
    """What this process writes to a checkpoint. The tensors may be live: later steps change them.

    Where several processes hold parts of the tensors, each writes its own. What is not in parts is
    given by one of them.
    """

    parameters: Mapping[str, torch.Tensor]
    """By logical name."""
    optimizer_state: Mapping[str, torch.Tensor]
    """By the keys of ``optim.state``."""
    ema: Mapping[str, torch.Tensor]
    """By the parameters' names; empty where the plan has no EMA."""
    parts: Mapping[str, Place] = field(default_factory=dict)
    """By the names in the file: the places of those tensors above that are parts."""
    is_sharded: bool = False
    """Whether every process writes a file; otherwise rank 0 has everything, and writes it."""

    def by_file_name(self) -> dict[str, torch.Tensor]:
        """All tensors by their names in the file."""
        tensors = {PARAMETER + name: tensor for name, tensor in self.parameters.items()}
        tensors |= {EMA + name: tensor for name, tensor in self.ema.items()}
        return tensors | dict(self.optimizer_state)


def write_checkpoint(
    checkpoints_dir: Path,
    facts: CheckpointFacts,
    trained: TrainedTensors,
    write_adapters: Callable[[Path], None] | None = None,
    ranks: CheckpointRanks = ALONE,
) -> WrittenFolder:
    """Write ``checkpoints_dir/step-…``; when this returns, the folder survives a power failure.

    Of several processes, rank 0 calls it, and the others call ``write_part``.

    ``write_adapters``: writes the ``adapter_files`` into a draft of the folder. Raises DiskError;
    then nothing of it is left.
    """
    fault_point("checkpoint.before_state")
    final = checkpoints_dir / checkpoint_name(facts.step)
    with _draft_of(final) as draft:
        if write_adapters is not None:
            write_adapters(draft)
        return _write_checkpoint(draft, final, facts, trained, ranks)


def write_part(
    checkpoints_dir: Path, step: int, trained: TrainedTensors, ranks: CheckpointRanks
) -> None:
    """Write this process's file of a sharded checkpoint, which rank 0 writes with the others.

    When it returns, the files of all processes are written, but the checkpoint is not complete.
    Raises DiskError.
    """
    fault_point("checkpoint.before_state")
    final = checkpoints_dir / checkpoint_name(step)
    _write_states(_draft_place(final), final, trained, ranks)


def _write_checkpoint(
    draft: Path,
    final: Path,
    facts: CheckpointFacts,
    trained: TrainedTensors,
    ranks: CheckpointRanks,
) -> WrittenFolder:
    scalars = dict(facts.scalars)
    if adapters := _files_of(draft):
        scalars[ADAPTER_FILES] = {
            name: file.model_dump(mode="json") for name, file in adapters.items()
        }
    files = _write_states(draft, final, trained, ranks)
    fault_point("checkpoint.before_manifest")
    manifest = sealed(
        CheckpointManifest(
            step=facts.step,
            cursor=facts.cursor,
            identity_digest=facts.run.identity_digest,
            identity=facts.run.identity,
            data_digest=facts.run.data_digest,
            base_digest=facts.run.base_digest,
            scalars=scalars,
            files=files,
        )
    )
    return _commit(draft, final, manifest)


def _write_states(
    draft: Path, final: Path, trained: TrainedTensors, ranks: CheckpointRanks
) -> dict[str, FileFacts]:
    """Write this process's state file; the facts of all state files, once they are written."""
    tensors = trained.by_file_name()
    if not trained.is_sharded:
        (name,) = state_names(1)
        return {name: write_state(draft / name, tensors, trained.parts)}
    names = state_names(ranks.count)
    ranks.exchange(b"")  # rank 0 has made the draft
    with writing(final):
        own = write_state(draft / names[ranks.rank], tensors, trained.parts)
    told = ranks.exchange(own.model_dump_json().encode())
    files = {
        name: FileFacts.model_validate_json(body) for name, body in zip(names, told, strict=True)
    }
    if ranks.rank == 0:
        _check_shared(draft, final, files)
    return files


def _check_shared(draft: Path, final: Path, files: Mapping[str, FileFacts]) -> None:
    """Raise DiskError where a process has written its file to another folder of the same name."""
    for name in files:
        if not (draft / name).is_file():
            raise DiskError(
                "disk_failed",
                f"{name} of {final} was written on another machine: name an output folder that all "
                "machines of the run share",
            )


def write_result(final: Path, step: int, fill: Callable[[Path], None]) -> WrittenFolder:
    """Write a result folder: ``fill`` writes its files into a draft, which then becomes ``final``.

    When this returns, the folder survives a power failure. Raises DiskError; then nothing of it is
    left.
    """
    fault_point("result.before_adapter")
    with _draft_of(final) as draft:
        fill(draft)
        fault_point("result.before_manifest")
        return _commit(draft, final, ResultManifest(step=step, files=_files_of(draft)))


@contextmanager
def _draft_of(final: Path) -> Iterator[Path]:
    """An empty folder beside the final one; deletes the draft of a killed process.

    After an error it is deleted, too: on a full disk it would take the space of what comes next.
    """
    draft = _draft_place(final)
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with writing(final):
            draft.mkdir(parents=True)
            yield draft
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _draft_place(final: Path) -> Path:
    return final.with_name(f".{final.name}.draft")


def _commit(
    draft: Path, final: Path, manifest: CheckpointManifest | ResultManifest
) -> WrittenFolder:
    body = (manifest.model_dump_json(indent=2) + "\n").encode()
    (draft / MANIFEST_NAME).write_bytes(body)
    size_bytes = 0
    for path in draft.rglob("*"):
        _fsync(path)
        size_bytes += path.stat().st_size if path.is_file() else 0
    _fsync(draft)
    fault_point(f"{manifest.kind}.before_rename")
    # A run that died after its rename writes the same step again, which replaces the old folder.
    # The old folder is renamed before it is deleted, so that a kill leaves no half-deleted folder
    # under the final name.
    old = final.with_name(f".{final.name}.old")
    restore_replaced(final)
    shutil.rmtree(old, ignore_errors=True)  # incomplete, if it still exists
    if final.exists():
        final.rename(old)
        fault_point(f"{manifest.kind}.between_renames")
    draft.rename(final)
    _fsync(final.parent)
    shutil.rmtree(old, ignore_errors=True)
    return WrittenFolder(
        path=final,
        manifest_sha256=hashlib.sha256(body).hexdigest(),
        size_bytes=size_bytes,
    )


def _files_of(folder: Path) -> dict[str, FileFacts]:
    return {
        path.relative_to(folder).as_posix(): facts_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
