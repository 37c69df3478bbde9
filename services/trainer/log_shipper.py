"""Sends what the training process prints to the ledger.

A thread reads the process's output file, so the process never waits for it. It sends one piece a
second, and all that is left at once when the process has ended. A ledger that is down is tried
again with one piece in memory. An error here never ends the attempt.
"""

import re
import socket
import threading
from collections.abc import Sequence
from contextvars import copy_context
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from services.domain.ledger import Printed
from services.logs.setup import redacted
from services.trainer.child import OUTPUT_NAME
from services.trainer.context import HeldRun
from services.trainer.lease import NotWantedError
from services.trainer.output_pieces import OutputPieces

log = structlog.get_logger(__name__)

_EVERY_S: Final = 1.0


class LogShipper:
    """The output of one attempt's training process on its way to the ledger."""

    def __init__(self, held: HeldRun, folder: Path) -> None:
        """``folder``: of the attempt; the process's output file is there, or will be."""
        self._ledger = held.context.ledger
        self._claim = held.claim
        self._lease = held.lease
        folders = [str(folder), str(held.context.models_dir)]
        if held.context.node_cache is not None:
            folders.append(held.context.node_cache.folder)
        self._pieces = OutputPieces(folder / OUTPUT_NAME, partial(shown, folders=folders))
        self._is_complete = threading.Event()
        context = copy_context()  # the thread's log lines name the run
        self._thread = threading.Thread(
            target=context.run, args=(self._ship,), name="log-shipper", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish()

    def finish(self) -> None:
        """Send what is left; call it after the process has ended, and before the lease ends.

        Returns at once where the lease is given up.
        """
        self._is_complete.set()
        while self._thread.is_alive() and not self._lease.is_given_up:
            self._thread.join(0.05)

    def _ship(self) -> None:
        try:
            while True:
                is_complete = self._is_complete.is_set()  # asked before the file is read
                printed = self._pieces.next(is_complete=is_complete)
                if printed is not None:
                    self._send(printed)
                elif is_complete:
                    return
                if not is_complete:
                    self._is_complete.wait(_EVERY_S)
        except NotWantedError:
            return  # the attempt finds out from the lease
        except Exception:  # the thread's outermost loop: a run does not fail for its log
            log.exception("log_not_stored")

    def _send(self, printed: Printed) -> None:
        self._lease.until_stored(
            lambda: self._ledger.log(self._claim.run_id, self._claim.fence, printed), doing="log"
        )


def shown(text: str, *, folders: Sequence[str]) -> str:
    """What the tenant sees of the output: without secrets, and the worker's name and places.

    The process itself has no secrets, and prints neither captions nor prompts.
    """
    text = redacted(text)
    for folder in folders:
        text = text.replace(f"{folder}/", "").replace(folder, ".")
    return re.sub(rf"\b{re.escape(socket.gethostname())}\b", "this-host", text)
