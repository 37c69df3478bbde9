"""Uploads and commits checkpoints and results: first content, then manifest, then the row.

A committed checkpoint is deleted from the disk, by which the training process knows of it. Commits
are made one at a time and in order, so an attempt's checkpoints are committed before its result.
Uploads run in a thread, so that training continues meanwhile.
"""

import contextlib
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from services.domain.ledger import StoredCheckpoint, StoredFiles
from services.metrics import work as metrics
from services.objects.errors import ObjectStoreError
from services.objects.folders import put_folder
from services.objects.keys import checkpoint_prefix, result_prefix
from services.traces.spans import span
from services.trainer.background import Background
from services.trainer.context import HeldRun
from services.trainer.failures import infra_failed, platform_failed
from trainer_core.faultpoints import fault_point
from trainer_core.process.events import Event

log = structlog.get_logger(__name__)

WAITING_CHECKPOINTS: Final = 2
"""Training waits while so many checkpoints are not committed, so a kill costs at most two intervals
of checkpoints, and the scratch disk holds no more of them."""


class Committer:
    """Uploads and commits the checkpoints and the result of one claim."""

    def __init__(self, held: HeldRun, output_dir: Path) -> None:
        """``output_dir``: the child's output folder; event paths may be relative to it."""
        self._objects = held.context.objects
        self._ledger = held.context.ledger
        self._claim = held.claim
        self._lease = held.lease
        self._output_dir = output_dir
        self._background = Background(held.lease, "committer")
        self._pending: list[Future[None]] = []
        self._others: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Not waited for: an upload that hangs commits nothing once the lease has ended.
        self._background.abandon()

    def checkpoint(self, event: Event) -> None:
        """Start to upload and commit the checkpoint that this event names."""
        commit = partial(self._traced, self._commit_checkpoint, event)
        self._pending.append(self._background.start(commit))

    def start(self, call: Callable[[], None]) -> Future[None]:
        """Call it in the committer's thread; what is started after it waits for it."""
        started = self._background.start(call)
        self._others.append(started)
        return started

    @property
    def has_full_queue(self) -> bool:
        """Whether training waits for a commit."""
        return self._num_waiting() >= WAITING_CHECKPOINTS

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is on its way to the store."""
        return self._num_waiting() > 0

    def _num_waiting(self) -> int:
        return sum(not future.done() for future in tuple(self._pending))

    def check(self) -> None:
        """Raise the error of a commit or a call that has failed."""
        for started in (self._pending, self._others):
            for future in [each for each in started if each.done()]:
                started.remove(future)
                future.result()

    def wait(self) -> None:
        """Wait for all that was started; raises its error, or as ``Lease.check``."""
        for started in (self._pending, self._others):
            for future in started:
                self._background.result_of(future)
            started.clear()

    def result(self, event: Event) -> None:
        """Upload the result and commit it: from then on the run has succeeded."""
        self.wait()
        commit = partial(self._traced, self._commit_result, event)
        committed = self._background.start(commit)
        self._background.result_of(committed)

    def _traced(self, commit: Callable[[Event], StoredFiles], event: Event) -> None:
        what = "checkpoint" if event.name == "checkpoint" else "result"
        with span(f"commit {what}", step=event.step) as committing:
            committing.note(size_bytes=commit(event).size_bytes)

    def _commit_checkpoint(self, event: Event) -> StoredFiles:
        claim, folder = self._claim, self._folder_of(event)
        prefix = checkpoint_prefix(claim.tenant_id, claim.run_id, claim.fence, event.step)
        stored = self._upload(prefix, folder, event)
        fault_point("checkpoint.uploaded")
        checkpoint = StoredCheckpoint(step=event.step, files=stored)
        self._lease.until_answered(
            lambda: self._ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint),
            doing="commit_checkpoint",
        )
        fault_point("checkpoint.committed")
        log.info("checkpoint_committed", step=event.step, size_bytes=stored.size_bytes)
        _delete(folder)
        return stored

    def _commit_result(self, event: Event) -> StoredFiles:
        claim = self._claim
        prefix = result_prefix(claim.tenant_id, claim.run_id, claim.fence)
        stored = self._upload(prefix, self._folder_of(event), event)
        fault_point("result.uploaded")
        self._lease.until_ended(
            lambda: self._ledger.commit_result(claim.run_id, claim.fence, stored, step=event.step),
            doing="commit_result",
        )
        fault_point("result.committed")
        log.info("result_committed", step=event.step, size_bytes=stored.size_bytes)
        return stored

    def _upload(self, prefix: str, folder: Path, event: Event) -> StoredFiles:
        try:
            with (
                metrics.uploads_in_flight.track_inprogress(),
                metrics.upload_seconds.labels(kind=event.name).time(),
            ):
                stored = self._lease.until_answered(
                    lambda: put_folder(self._objects, prefix, folder), doing="upload"
                )
        except FileNotFoundError as error:
            message = f"The training process named a {event.name} that does not exist."
            raise platform_failed("output_missing", message) from error
        except ObjectStoreError as error:
            log.error("upload_refused", code=error.code, reason=str(error))
            message = f"The {event.name} could not be stored ({error.code})."
            raise infra_failed(error.code, message) from error
        if stored.manifest_sha256 != event.data.get("manifest_sha256"):
            message = f"The {event.name} is not what the training process reported."
            raise infra_failed("output_changed", message)
        metrics.upload_bytes.labels(kind=event.name).inc(stored.size_bytes)
        return stored

    def _folder_of(self, event: Event) -> Path:
        folder = (self._output_dir / str(event.data["path"])).resolve()
        if not folder.is_relative_to(self._output_dir.resolve()):
            message = "The training process named a folder that is not its own."
            raise platform_failed("bad_event", message)
        return folder


def _delete(folder: Path) -> None:
    """Renamed first, so that the training process never sees half a checkpoint."""
    gone = folder.with_name(f".{folder.name}.gone")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
