"""Stores the pictures that a run makes while it trains: first the file, then the event for it.

They go through the committer's thread, so a picture is stored before the checkpoint that follows
it, from which no attempt makes it again. A run never fails for a picture. One that cannot be stored
is dropped with a warning, and a checkpoint does not wait for it for long.
"""

import hashlib
import struct
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from services.domain.ledger import ChildEvent
from services.domain.samples import MAX_SAMPLES, StoredSample, sample_of
from services.metrics import work as metrics
from services.objects import folder_files
from services.objects.errors import ObjectStoreDownError, ObjectStoreError
from services.objects.keys import sample_key
from services.trainer.context import HeldRun
from services.trainer.lease import NotWantedError
from trainer_core.faultpoints import fault_point

log = structlog.get_logger(__name__)

WAITING_SAMPLES: Final = 64
"""Pictures on the disk that are not stored yet; one that comes then is dropped."""
_PATIENCE_S: Final = 120.0
"""So long the store may refuse to answer before pictures are dropped: a checkpoint may wait."""
_MAX_WARNINGS: Final = 20
"""Of an attempt; the log has them all."""
_HEADER: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"
"""Every PNG file begins so; its width and height follow as four bytes each."""
_COPY: Final = "sample-to-store.png"


class _DroppedError(Exception):
    """The picture is not stored; the text is the reason, for the tenant."""


class Samples:
    """The pictures of one claim on their way to the store."""

    def __init__(
        self,
        held: HeldRun,
        output_dir: Path,
        *,
        start: Callable[[Callable[[], None]], Future[None]],
        report: Callable[[ChildEvent], None],
    ) -> None:
        """
        Args:
            held: the claim.
            output_dir: of the training process; paths of events are relative to it.
            start: calls something in the committer's thread, after what was started before.
            report: takes a warning for the run's events.
        """
        self._claim = held.claim
        self._lease = held.lease
        self._ledger = held.context.ledger
        self._objects = held.context.objects
        self._output_dir = output_dir
        self._start = start
        self._report = report
        self._waiting: list[Future[None]] = []
        self._num_taken = 0
        self._num_dropped = 0
        self._store_down_since_s: float | None = None

    def take(self, event: ChildEvent) -> None:
        """Store the picture that this event names, in the thread, or drop it with a warning."""
        self._waiting = [each for each in self._waiting if not each.done()]
        try:
            sample = sample_of(event)
        except ValueError as error:
            self._warn(event.step, f"its event is not as it has to be ({error})")
            return
        if self._num_taken >= MAX_SAMPLES:
            self._drop(sample, f"this attempt has made {MAX_SAMPLES:,}, which is the limit")
        elif len(self._waiting) >= WAITING_SAMPLES:
            self._drop(sample, f"{WAITING_SAMPLES} others wait for the object store")
        else:
            self._num_taken += 1
            self._waiting.append(self._start(partial(self._store, event, sample)))

    def _store(self, event: ChildEvent, sample: StoredSample) -> None:
        """Raises only what ends the attempt: NotWantedError."""
        try:
            self._put(sample)
            fault_point("sample.stored")
            self._lease.until_answered(
                lambda: self._ledger.event(self._claim.run_id, self._claim.fence, [event]),
                doing="report_sample",
            )
            fault_point("sample.recorded")
            log.info("sample_stored", step=sample.step, size_bytes=sample.size_bytes)
        except NotWantedError:
            raise
        except _DroppedError as error:
            self._drop(sample, str(error))
        except Exception:  # a run does not fail for a picture
            log.exception("sample_not_stored_unexpectedly")
            self._drop(sample, "an unexpected error, which the log of the worker has")
        else:
            self._delete(sample.path)

    def _put(self, sample: StoredSample) -> None:
        claim = self._claim
        key = sample_key(claim.tenant_id, claim.run_id, claim.fence, sample.sha256)
        # A copy, so that what is stored is what was checked.
        copy = self._output_dir.parent / _COPY
        try:
            copy.write_bytes(self._checked(sample))
            with metrics.upload_seconds.labels(kind="sample").time():
                self._lease.until_answered(partial(self._put_once, key, copy), doing="put_sample")
        except OSError as error:
            raise _DroppedError(f"the disk of the worker: {_why(error)}") from error
        except ObjectStoreError as error:
            log.error("sample_refused", code=error.code, reason=str(error))
            raise _DroppedError(f"the object store refuses it ({error.code})") from error
        finally:
            copy.unlink(missing_ok=True)
        metrics.upload_bytes.labels(kind="sample").inc(sample.size_bytes)

    def _put_once(self, key: str, copy: Path) -> None:
        """Raises ObjectStoreDownError to be called again, unless it has lasted too long."""
        try:
            self._objects.put_file(key, copy)
        except ObjectStoreDownError:
            now_s = time.monotonic()
            self._store_down_since_s = self._store_down_since_s or now_s
            if now_s - self._store_down_since_s < _PATIENCE_S:
                raise
            waited = f"the object store has not answered for {_PATIENCE_S:.0f} s"
            raise _DroppedError(waited) from None
        self._store_down_since_s = None

    def _checked(self, sample: StoredSample) -> bytes:
        """The bytes of the file: a PNG picture of the size and digest that its event names."""
        try:
            with folder_files.open_regular(self._output_dir, tuple(sample.path.split("/"))) as file:
                body = file.read(sample.size_bytes + 1)
        except OSError as error:
            raise _DroppedError(f"its file cannot be read: {_why(error)}") from error
        if len(body) != sample.size_bytes or hashlib.sha256(body).hexdigest() != sample.sha256:
            raise _DroppedError("its file is not what the training process reported")
        size_px = struct.pack(">II", sample.width_px, sample.height_px)
        if not body.startswith(_HEADER + size_px):
            side_px = f"{sample.width_px} by {sample.height_px} px"
            raise _DroppedError(f"its file is no PNG picture of {side_px}")
        return body

    def _drop(self, sample: StoredSample, reason: str) -> None:
        self._delete(sample.path)
        self._warn(sample.step, reason)

    def _warn(self, step: int, reason: str) -> None:
        log.warning("sample_dropped", step=step, reason=reason)
        self._num_dropped += 1
        if self._num_dropped > _MAX_WARNINGS:
            return
        message = f"A picture of step {step} is not stored: {reason}."
        if self._num_dropped == _MAX_WARNINGS:
            message += " Warnings of more pictures that are not stored are left out."
        data = {"code": "sample_not_stored", "message": message}
        self._report(ChildEvent(type="warning", step=step, data=data))

    def _delete(self, path: str) -> None:
        """Delete the local file, and its folders where they are empty then."""
        with suppress(OSError):
            folder_files.delete(self._output_dir, tuple(path.split("/")))


def _why(error: OSError) -> str:
    """Without the path, which is the worker's own."""
    return error.strerror or type(error).__name__
