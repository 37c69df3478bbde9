"""Work asked for by a parent process: one JSON object a line on stdin, one reply a line.

Replies go to a descriptor of their own, because stdout belongs to whatever library wants to print.
"""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final

from trainer_core.errors import TrainerError
from trainer_core.process.failure import failure_as_json, failure_of

_STDOUT: Final = 1
_STDERR: Final = 2

Request = Mapping[str, Any]
Handler = Callable[[Request], Mapping[str, Any]]


def open_replies(reply_fd: int) -> BinaryIO:
    """The descriptor as a file of our own; nothing that libraries print can reach it after this.

    Where it is stdout itself, what is printed goes to stderr from here on. Children do not inherit
    it. Raises OSError where the descriptor is not open.
    """
    own = os.dup(reply_fd)  # never inherited
    if reply_fd == _STDOUT:
        os.dup2(_STDERR, _STDOUT)
    elif reply_fd > _STDERR:
        os.close(reply_fd)
    return os.fdopen(own, "wb", buffering=0)


def answer_requests(requests: BinaryIO, replies: BinaryIO, handle: Handler) -> None:
    """Answer until stdin ends; `{"id", "ok": true, …}` or `{"id", "ok": false, "error": {…}}`.

    A TrainerError becomes a reply. Anything else is a defect or the machine's end, and ends the
    process: the parent reads end of file and knows which request it was.
    """
    for line in requests:
        if line.strip():
            request = json.loads(line)
            reply = {"id": request["id"], **_answer(request, handle)}
            replies.write(json.dumps(reply, allow_nan=False).encode() + b"\n")


def _answer(request: Request, handle: Handler) -> Mapping[str, Any]:
    try:
        return {"ok": True, **handle(request)}
    except TrainerError as error:
        return {"ok": False, "error": failure_as_json(failure_of(error))}
