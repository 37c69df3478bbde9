"""The warm child: used, killed, hung, restarted. A short program takes the encoder's place."""

import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

from services.processes.request_child import ChildLostError, RequestChild, RequestFailedError
from trainer_core.config.plan.frozen import Frozen

PROGRAM = textwrap.dedent(
    """
    import json, os, sys, time
    reply_fd = int(sys.argv[sys.argv.index("--reply-fd") + 1])
    print("libraries chatter")
    for line in sys.stdin:
        request = json.loads(line)
        do = request.get("do")
        if do == "die":
            os._exit(3)
        if do == "refuse":
            error = {"code": "bad_image", "category": "user", "message": "torn", "retryable": True}
            reply = {"id": request["id"], "ok": False, "error": error}
            os.write(reply_fd, json.dumps(reply).encode() + b"\\n")
            continue
        if do == "stray":
            os.write(reply_fd, json.dumps({"id": "another", "ok": True}).encode() + b"\\n")
            continue
        if do == "hang":
            time.sleep(600)
        reply = {"id": request["id"], "ok": True, "pid": os.getpid(), "env": dict(os.environ)}
        reply["size"] = len(line)
        os.write(reply_fd, json.dumps(reply).encode() + b"\\n")
    """
)


class Ping(Frozen):
    do: str = ""
    padding: str = ""


class Pong(Frozen):
    pid: int
    env: dict[str, str]
    size: int


def child(*, deadline_s: float = 30.0, idle_end_s: float = 600.0, **env: str) -> RequestChild:
    return RequestChild(
        (sys.executable, "-c", PROGRAM),
        env={**os.environ, **env},
        deadline_s=deadline_s,
        idle_end_s=idle_end_s,
    )


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_it_stays_warm_and_sees_no_secret() -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "s", "REVERIE_DATABASE_URL": "s", "HF_TOKEN": "s"}
    with child(**secrets) as it:
        first, second = it.request(Ping(), Pong), it.request(Ping(padding="x" * 300_000), Pong)
        assert first.pid == second.pid
        assert second.size > 300_000
        assert not secrets.keys() & first.env.keys()
        assert first.env["HF_HUB_OFFLINE"] == "1"
    assert not is_alive(first.pid)


def test_it_comes_back_after_it_died() -> None:
    with child() as it:
        first = it.request(Ping(), Pong)
        with pytest.raises(ChildLostError):
            it.request(Ping(do="die"), Pong)
        second = it.request(Ping(), Pong)
        assert second.pid != first.pid
        os.kill(second.pid, signal.SIGKILL)
        with pytest.raises(ChildLostError):
            it.request(Ping(do="die"), Pong)
        assert it.request(Ping(), Pong).pid


def test_a_hung_one_is_ended_at_the_deadline() -> None:
    with child(deadline_s=1.0) as it:
        pid = it.request(Ping(), Pong).pid
        with pytest.raises(ChildLostError, match="no reply"):
            it.request(Ping(do="hang"), Pong)
        assert not is_alive(pid)


def test_an_idle_one_is_ended() -> None:
    with child(idle_end_s=0.1) as it:
        pid = it.request(Ping(), Pong).pid
        deadline = time.monotonic() + 10
        while is_alive(pid):
            assert time.monotonic() < deadline, "still there"
            time.sleep(0.02)
        assert it.request(Ping(), Pong).pid != pid


def test_a_refusal_is_an_error_and_the_child_stays() -> None:
    with child() as it:
        pid = it.request(Ping(), Pong).pid
        with pytest.raises(RequestFailedError) as caught:
            it.request(Ping(do="refuse"), Pong)
        assert caught.value.failure.code == "bad_image"
        assert not caught.value.failure.retryable  # a user's error is not repeated
        assert it.request(Ping(), Pong).pid == pid


def test_a_reply_to_another_request_ends_the_child() -> None:
    with child() as it:
        pid = it.request(Ping(), Pong).pid
        with pytest.raises(ChildLostError, match="another request"):
            it.request(Ping(do="stray"), Pong)
        assert not is_alive(pid)
