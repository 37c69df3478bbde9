"""Write checkpoint and result folders so that they appear complete or not at all."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors.torch import save_file

from trainer_core.checkpoint.folders import facts_of, restore_replaced
from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.layout import (
    ADAPTER_FILES,
    EMA,
    MANIFEST_NAME,
    PARAMETER,
    STATE_NAME,
    CheckpointManifest,
    FileFacts,
    ResultManifest,
    checkpoint_name,
    sealed,
)
from trainer_core.disk import writing
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
    """The tensors of a checkpoint. They may be live: later steps change them unless copied."""

    parameters: Mapping[str, torch.Tensor]
    """By logical name, each whole even if it is sharded over ranks."""
    optimizer_state: Mapping[str, torch.Tensor]
    """By the keys of ``optim.state``."""
    ema: Mapping[str, torch.Tensor]
    """By the parameters' names; empty where the plan has no EMA."""


def write_checkpoint(
    checkpoints_dir: Path,
    facts: CheckpointFacts,
    trained: TrainedTensors,
    write_adapters: Callable[[Path], None] | None = None,
) -> WrittenFolder:
    """Write ``checkpoints_dir/step-…``; when this returns, the folder survives a power failure.

    ``write_adapters``: writes the ``adapter_files`` into a draft of the folder. Raises DiskError;
    then nothing of it is left.
    """
    fault_point("checkpoint.before_state")
    final = checkpoints_dir / checkpoint_name(facts.step)
    with _draft_of(final) as draft:
        if write_adapters is not None:
            write_adapters(draft)
        return _write_checkpoint(draft, final, facts, trained)


def _write_checkpoint(
    draft: Path, final: Path, facts: CheckpointFacts, trained: TrainedTensors
) -> WrittenFolder:
    scalars = dict(facts.scalars)
    if adapters := _files_of(draft):
        scalars[ADAPTER_FILES] = {
            name: file.model_dump(mode="json") for name, file in adapters.items()
        }
    tensors = {PARAMETER + name: tensor for name, tensor in trained.parameters.items()}
    tensors |= {EMA + name: tensor for name, tensor in trained.ema.items()}
    tensors |= trained.optimizer_state
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        draft / STATE_NAME,
    )
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
            files={STATE_NAME: facts_of(draft / STATE_NAME)},
        )
    )
    return _commit(draft, final, manifest)


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
    draft = final.with_name(f".{final.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with writing(final):
            draft.mkdir(parents=True)
            yield draft
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


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
