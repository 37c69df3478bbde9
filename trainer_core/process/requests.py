"""Requests to a process that stays: one JSON object a line on stdin, one reply a line.

Both sides use the types of this file. Replies go to a descriptor of their own, because stdout
belongs to whatever library wants to print.
"""

import json
import os
from collections.abc import Callable
from typing import BinaryIO, Final, TypeVar

from trainer_core.config.plan.frozen import Frozen, Many
from trainer_core.data.index import ShardSpec
from trainer_core.errors import TrainerError
from trainer_core.process.failure import (
    Failure,
    failure_as_json,
    failure_of,
    failure_reported,
)

_STDOUT: Final = 1
_STDERR: Final = 2

Request = TypeVar("Request", bound=Frozen)
Reply = TypeVar("Reply", bound=Frozen)


class EncodeRequest(Frozen):
    """Encode one cache shard."""

    base_model: str
    """Name on the operator's list of base models."""
    spec: ShardSpec
    inputs: dict[str, str]
    """SHA-256 of each picture → its path on this machine."""
    output: str
    """Path of the shard's file, which does not exist yet."""


class EncodeReply(Frozen):
    """The file at ``output``."""

    size_bytes: int
    sha256: str


class InspectRequest(Frozen):
    """Decode pictures."""

    inputs: dict[str, str]
    """Name of each picture, for messages → its path on this machine."""


class PictureFacts(Frozen):
    """As displayed, with the orientation of the file applied."""

    width_px: int
    height_px: int


class BadPicture(Frozen):
    """A picture that cannot be used."""

    path: str
    """Its name in the request."""
    code: str
    message: str


class InspectReply(Frozen):
    """Each picture is in one of the two."""

    facts: dict[str, PictureFacts]
    errors: Many[BadPicture]


def request_line(id_: str, request: Frozen) -> bytes:
    """The line that asks for it; the reply carries the same id."""
    return json.dumps({"id": id_, **request.model_dump(mode="json")}).encode() + b"\n"


def read_reply(line: bytes, id_: str, kind: type[Reply]) -> Reply | Failure:
    """The reply to the request of that id, or why it failed; ValueError for anything else."""
    body = json.loads(line)
    if not isinstance(body, dict) or body.pop("id", None) != id_:
        raise ValueError("the reply is to another request")
    if body.pop("ok", None) is True:
        return kind.model_validate(body)
    if not isinstance(error := body.get("error"), dict):
        raise ValueError("the reply says neither ok nor why not")
    return failure_reported(error)


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


def answer_requests(
    requests: BinaryIO,
    replies: BinaryIO,
    kind: type[Request],
    handle: Callable[[Request], Frozen],
) -> None:
    """Answer until stdin ends; `{"id", "ok": true, …}` or `{"id", "ok": false, "error": {…}}`.

    A TrainerError becomes a reply. Anything else is a defect, or the end of the machine, and ends
    the process: the parent reads end of file and knows which request it was.
    """
    for line in requests:
        if line.strip():
            body = json.loads(line)
            reply = {"id": body.pop("id")}
            try:
                reply |= {"ok": True, **handle(kind.model_validate(body)).model_dump(mode="json")}
            except TrainerError as error:
                reply |= {"ok": False, "error": failure_as_json(failure_of(error))}
            replies.write(json.dumps(reply, allow_nan=False).encode() + b"\n")
