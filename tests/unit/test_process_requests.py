"""What a child process answers when it cannot do what it was asked for."""

import errno
import io
import json
import os

import pytest

from trainer_core.config.plan.frozen import Frozen
from trainer_core.errors import ShardCorruptError
from trainer_core.process.requests import Request, answer_requests, request_line


class Ask(Frozen):
    pass


class Answer(Frozen):
    pass


def codes(*errors: Exception | None) -> list[str | None]:
    """The codes of the replies, None for a success; one request for each of these outcomes."""
    outcomes = iter(errors)

    def handle(_: Request) -> Answer:
        error = next(outcomes)
        if error is not None:
            raise error
        return Answer()

    replies = io.BytesIO()
    asked = b"".join(request_line(str(n), Ask()) for n in range(len(errors)))
    answer_requests(io.BytesIO(asked), replies, Ask, handle)
    answered = [json.loads(line) for line in replies.getvalue().splitlines()]
    return [None if reply["ok"] else reply["error"]["code"] for reply in answered]


def test_a_failure_of_the_machine_is_a_reply_and_the_next_request_is_answered() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert codes(full, ShardCorruptError("torn"), None) == ["disk_full", "shard_corrupt", None]


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("a broken picture")])
def test_any_other_error_ends_the_process(error: Exception) -> None:
    with pytest.raises(type(error)):
        codes(error)
