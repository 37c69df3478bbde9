"""Stores the newest preview of the picture that a run is sampling, in a thread of its own.

Nothing waits for a preview, and no run fails for one: while one is on its way, those that come are
left out, and one that cannot be stored is only logged.
"""

import struct
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from services.domain.ledger import ChildEvent
from services.domain.previews import MAX_PREVIEW_BYTES, StoredPreview, preview_of
from services.objects import folder_files
from services.objects.keys import preview_key
from services.trainer.context import HeldRun

log = structlog.get_logger(__name__)

_EVERY_S: Final = 1.0
"""At most one in this time."""
_PAUSE_S: Final = 30.0
"""After one that could not be stored."""
_HEADER: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"
FILE: Final = ("samples", "preview.png")
"""Below the output folder of the training process."""
_COPY: Final = "preview-to-store.png"


class Previews:
    """The previews of one claim on their way to the store."""

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
            output_dir: of the training process, which replaces the file there.
            start: calls something in a thread that nothing else waits for.
            report: takes the event of a stored preview, after those that are reported already.
        """
        self._claim = held.claim
        self._lease = held.lease
        self._objects = held.context.objects
        self._output_dir = output_dir
        self._start = start
        self._report = report
        self._storing: Future[None] | None = None
        self._not_before_s = 0.0

    def take(self, event: ChildEvent) -> None:
        """Store the preview that this event tells of, unless it comes too soon."""
        now_s = time.monotonic()
        if now_s < self._not_before_s:
            return
        if self._storing is not None and not self._storing.done():
            return
        self._not_before_s = now_s + _EVERY_S
        self._storing = self._start(partial(self._store, event))

    def _store(self, event: ChildEvent) -> None:
        """Raises nothing."""
        if self._lease.may_have_run_out:
            return
        claim = self._claim
        copy = self._output_dir.parent / _COPY
        try:
            body = self._body()
            if body is None:
                return
            told = replace(event, data={**event.data, "size_bytes": len(body)})
            preview = preview_of(told)
            if not body.startswith(_HEADER + _size_of(preview)):
                return  # of another picture by now, whose event follows
            copy.write_bytes(body)
            key = preview_key(claim.tenant_id, claim.run_id, claim.fence)
            self._objects.put_file(key, copy)
            self._report(told)
        except Exception as error:  # noqa: BLE001 - no run fails for a preview
            self._not_before_s = time.monotonic() + _PAUSE_S
            log.warning("preview_not_stored", step=event.step, error=type(error).__name__)
        finally:
            with suppress(OSError):
                copy.unlink()

    def _body(self) -> bytes | None:
        """Of the newest preview; None where its picture is done by now, or it is too large."""
        try:
            with folder_files.open_regular(self._output_dir, FILE) as file:
                body = file.read(MAX_PREVIEW_BYTES + 1)
        except FileNotFoundError:
            return None
        return body if len(body) <= MAX_PREVIEW_BYTES else None


def _size_of(preview: StoredPreview) -> bytes:
    """Width and height, as a PNG file begins with them."""
    return struct.pack(">II", preview.width_px, preview.height_px)
