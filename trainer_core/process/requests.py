"""Requests to a long-lived child process: one JSON object per line on stdin, one reply per line.

Both sides use the types of this file. Replies go to a separate file descriptor, because libraries
print to stdout.
"""

import json
import os
from collections.abc import Callable
from typing import BinaryIO, Final, TypeVar

from pydantic import Field

from trainer_core.config.plan.frozen import Frozen, Many
from trainer_core.data.mask_levels import Lit
from trainer_core.data.shards import ShardSpec
from trainer_core.errors import Category, TrainerError
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
    """Name of a base model on the operator's list."""
    spec: ShardSpec
    inputs: dict[str, str]
    """SHA-256 of each image → its path on this machine."""
    output: str
    """Path of the shard's file, which does not exist yet."""


class EncodeReply(Frozen):
    """Size of the file at ``output``, and which entries it lacks."""

    size_bytes: int
    """0: there is no file, since it would have no entry."""
    unusable: dict[str, str] = Field(default_factory=dict)
    """Digests of images that cannot be used, and why."""


class InspectRequest(Frozen):
    """Decode images and return their sizes."""

    inputs: dict[str, str]
    """Name of each image, for messages → its path on this machine."""


class PictureFacts(Frozen):
    """What an image is; its size as displayed, with its EXIF orientation applied."""

    width_px: int
    height_px: int
    lit: Lit
    """What is above black, in case it is used as a mask."""


class BadPicture(Frozen):
    """An image that cannot be used."""

    path: str
    """Its name in the request."""
    code: str
    message: str


class InspectReply(Frozen):
    """Each image of the request is in one of the two."""

    facts: dict[str, PictureFacts]
    errors: Many[BadPicture]


def request_line(id_: str, request: Frozen) -> bytes:
    """The line of a request; its reply has the same id."""
    return json.dumps({"id": id_, **request.model_dump(mode="json")}).encode() + b"\n"


def read_reply(line: bytes, id_: str, kind: type[Reply]) -> Reply | Failure:
    """The reply to the request of that id, or its failure; raises ValueError for anything else."""
    body = json.loads(line)
    if not isinstance(body, dict) or body.pop("id", None) != id_:
        raise ValueError("the reply is to another request")
    if body.pop("ok", None) is True:
        return kind.model_validate(body)
    if not isinstance(error := body.get("error"), dict):
        raise ValueError("the reply has neither ok nor an error")
    return failure_reported(error)


def open_replies(reply_fd: int) -> BinaryIO:
    """Open the descriptor of the replies so that printed text cannot reach it.

    If it is stdout, printed text goes to stderr from then on. Child processes do not inherit it.
    Raises OSError if the descriptor is not open.
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

    A TrainerError becomes a reply, and so does a failure of the machine, such as a full disk. Any
    other exception ends the process; the parent then reads end of file and knows which request
    failed.
    """
    for line in requests:
        if line.strip():
            body = json.loads(line)
            reply = {"id": body.pop("id")}
            try:
                reply |= {"ok": True, **handle(kind.model_validate(body)).model_dump(mode="json")}
            except Exception as error:  # raised again unless it is one of the two
                failure = failure_of(error)
                if not isinstance(error, TrainerError) and failure.category is not Category.INFRA:
                    raise
                reply |= {"ok": False, "error": failure_as_json(failure)}
            replies.write(json.dumps(reply, allow_nan=False).encode() + b"\n")
