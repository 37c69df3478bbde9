"""A process that checks long lists of files, one at a time, for all processes of the API.

Checking a long list is seconds of Python. In a process that serves requests it would hold them up;
here it cannot, and with less priority it leaves the processors to them, too.
"""

import json
import os
import signal
import socket
from dataclasses import asdict
from typing import BinaryIO, Final, NoReturn

import structlog

from services.api.datasets.checked_list import check_list
from services.api.errors import InvalidJsonError
from services.api.long_lists import CheckedList
from services.domain.errors import InvalidRequestError, Problem

log = structlog.get_logger(__name__)

_NICENESS: Final = 10
_TRIES: Final = 2
_READ_BYTES: Final = 64 << 10


class Checker:
    """Make it before the processes are forked: they share its socket.

    A request is a datagram with three open files: the body, the rows to write, and a socket for the
    answer. A request that waits outlives a checker that dies.
    """

    def __init__(self) -> None:
        self._to_checker, self._requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def check(self, body: BinaryIO, rows: BinaryIO) -> CheckedList:
        """``check_list`` in the other process; both are files with a descriptor."""
        for _ in range(_TRIES):
            if answer := self._ask(body.fileno(), rows.fileno()):
                return _decoded(answer)
        raise RuntimeError(f"the checker ended {_TRIES} times with this list")

    def serve(self) -> NoReturn:
        """Check lists until SIGTERM ends this process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that watches
        os.nice(_NICENESS)
        while True:
            body, rows, asker = self.receive()
            with body, rows, asker:
                try:
                    asker.sendall(_answer(body, rows))
                except Exception:  # the disk is full, the asker is gone: the next list may be fine
                    log.exception("list_not_checked")

    def receive(self) -> tuple[BinaryIO, BinaryIO, socket.socket]:
        """Wait for the next list: its body, the file for its rows, and who asks."""
        _, (body, rows, asker), _, _ = socket.recv_fds(self._requests, 1, 3)
        return os.fdopen(body, "r+b"), os.fdopen(rows, "r+b"), socket.socket(fileno=asker)

    def _ask(self, body: int, rows: int) -> bytes:
        """The answer; empty where the checker ended before it gave one."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(self._to_checker, [b"?"], [body, rows, theirs.fileno()])
            pieces = []
            while piece := ours.recv(_READ_BYTES):
                pieces.append(piece)
        return b"".join(pieces)


def _answer(body: BinaryIO, rows: BinaryIO) -> bytes:
    body.seek(0)
    rows.seek(0)
    rows.truncate()
    answer: dict[str, object]
    try:
        answer = {"list": asdict(check_list(body, rows))}
        rows.flush()
    except InvalidJsonError as error:
        answer = {"invalid_json": str(error)}
    except InvalidRequestError as error:
        answer = {"problems": [asdict(each) for each in error.problems], "total": error.total}
    return json.dumps(answer).encode()


def _decoded(answer: bytes) -> CheckedList:
    """The list of an answer; raises the error in it."""
    match json.loads(answer):
        case {"list": found}:
            return CheckedList(**found)
        case {"invalid_json": message}:
            raise InvalidJsonError(message)
        case {"problems": problems, "total": total}:
            raise InvalidRequestError([Problem(**each) for each in problems], total=total)
        case _:
            raise AssertionError("the checker sends no other answer")
