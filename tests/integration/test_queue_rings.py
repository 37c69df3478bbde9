"""Rings (the service's Celery messages) over a real Redis: delivery, bad messages, lost brokers."""

import base64
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.domain.ids import new_id
from services.queue.rings import BrokerDownError, Rings
from tests.support.ports import free_port
from tests.support.redis import RedisServer
from tests.support.waiting import wait_until

DEADLINE_S = 30.0
AWAY_S = 2.0  # longer than redis-py retries an acknowledgement

WORKER = textwrap.dedent(
    """
    import os, sys, time, logging
    from pathlib import Path
    from services.queue.serve import serve

    folder, url, acks_late = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "late"

    def note(line):
        with (folder / "heard").open("a") as heard:
            heard.write(line + "\\n")

    def verify(tenant_id, dataset_id):
        note(f"begin {dataset_id}")
        while (folder / "hold").exists():
            time.sleep(0.01)
        note(f"end {dataset_id}")

    logging.basicConfig(level=logging.WARNING)
    note("up")
    assert not any(name.split(".")[0] == "torch" for name in sys.modules)
    serve(url, ["cache"], {"datasets.verify": verify}, acks_late=acks_late,
          on_shutdown=lambda: note("stopping"))
    note("down")
    """
)


class Listener:
    """A worker process that appends each message that it handles to a file."""

    def __init__(self, folder: Path, url: str, acks: str) -> None:
        self.folder = folder
        self.hold = folder / "hold"
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), url, acks],
            stdout=(folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        self.wait_for("up")

    def heard(self) -> list[str]:
        path = self.folder / "heard"
        return path.read_text().splitlines() if path.exists() else []

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def heard_within(self, line: str, patience_s: float) -> bool:
        end = time.monotonic() + patience_s
        while line not in self.heard() and time.monotonic() < end:
            time.sleep(0.05)
        return line in self.heard()

    def wait_for(self, line: str) -> None:
        wait_until(
            lambda: line in self.heard(), what=lambda: f"{line!r}; log: {self.log()[-3000:]}"
        )


@pytest.fixture
def listener(tmp_path: Path, redis_server: RedisServer) -> Iterator[Listener]:
    it = Listener(tmp_path, redis_server.url, "late")
    yield it
    it.hold.unlink(missing_ok=True)
    it.process.kill()
    it.process.wait()


def test_a_ring_is_delivered(listener: Listener, redis_server: RedisServer) -> None:
    dataset_id = new_id("ds")

    with Rings(redis_server.url) as rings:
        rings.dataset(new_id("ten"), dataset_id)

    listener.wait_for(f"end {dataset_id}")


def test_rings_are_delivered_after_the_broker_lost_everything(
    listener: Listener, redis_server: RedisServer
) -> None:
    first, second, third = new_id("ds"), new_id("ds"), new_id("ds")
    with Rings(redis_server.url) as rings:
        rings.dataset(new_id("ten"), first)
        listener.wait_for(f"end {first}")

        redis_server.flush()
        rings.dataset(new_id("ten"), second)
        listener.wait_for(f"end {second}")

        redis_server.restart_empty()
        # The message being acknowledged at the kill, or the first one after it, may be lost: rings
        # are repeated until they are taken, as the dispatcher does.
        wait_until(
            lambda: _rang(rings, third) and listener.heard_within(f"end {third}", 2.0),
            what="a ring to be delivered again",
        )


def test_rings_are_delivered_after_the_broker_is_lost_while_a_handler_runs(
    listener: Listener, redis_server: RedisServer
) -> None:
    first, second = new_id("ds"), new_id("ds")
    with Rings(redis_server.url) as rings:
        listener.hold.touch()
        rings.dataset(new_id("ten"), first)
        listener.wait_for(f"begin {first}")

        redis_server.restart_empty()
        wait_until(lambda: _rang(rings, second), what="the broker to accept rings again")
        listener.hold.unlink()

        listener.wait_for(f"end {first}")
        wait_until(
            lambda: _rang(rings, second) and listener.heard_within(f"end {second}", 2.0),
            what="a ring to be delivered again",
        )


@pytest.mark.parametrize("acks", ["late", "early"])
def test_rings_are_delivered_after_the_broker_is_down_when_a_handler_ends(
    tmp_path: Path, redis_server: RedisServer, acks: str
) -> None:
    listener = Listener(tmp_path, redis_server.url, acks)
    first, second = new_id("ds"), new_id("ds")
    try:
        with Rings(redis_server.url) as rings:
            listener.hold.touch()
            rings.dataset(new_id("ten"), first)
            listener.wait_for(f"begin {first}")

            redis_server.kill()
            listener.hold.unlink()
            listener.wait_for(f"end {first}")
            time.sleep(AWAY_S)
            redis_server.start()
            wait_until(
                lambda: _rang(rings, second) and listener.heard_within(f"end {second}", 2.0),
                what="a ring to be delivered again",
            )
    finally:
        listener.process.kill()
        listener.process.wait()


def _rang(rings: Rings, dataset_id: str) -> bool:
    try:
        rings.dataset(new_id("ten"), dataset_id)
    except BrokerDownError:
        return False
    return True


def test_sigterm_is_reported_at_once_and_waits_for_the_handler(
    listener: Listener, redis_server: RedisServer
) -> None:
    running, waiting = new_id("ds"), new_id("ds")
    listener.hold.touch()
    with Rings(redis_server.url) as rings:
        rings.dataset(new_id("ten"), running)
        listener.wait_for(f"begin {running}")
        rings.dataset(new_id("ten"), waiting)

    listener.process.send_signal(signal.SIGTERM)
    listener.wait_for("stopping")
    assert f"end {running}" not in listener.heard()

    listener.hold.unlink()
    assert listener.process.wait(DEADLINE_S) == 0
    assert listener.heard()[-2:] == [f"end {running}", "down"]
    assert f"begin {waiting}" not in listener.heard()


def _message(*, task: str, body: str, content_type: str = "application/json") -> str:
    """A message as kombu stores it in Redis (protocol 2)."""
    return json.dumps(
        {
            "body": base64.b64encode(body.encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": content_type,
            "headers": {"id": "1", "task": task, "lang": "py", "root_id": "1"},
            "properties": {
                "correlation_id": "1",
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "cache"},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": os.urandom(8).hex(),
            },
        }
    )


def test_a_malformed_message_is_dropped_with_a_log_line(
    listener: Listener, redis_server: RedisServer
) -> None:
    tenant_id = new_id("ten")
    bodies = [
        json.dumps([[tenant_id, "ds_../../etc/passwd"], {}, {}]),  # no id
        json.dumps([[tenant_id], {}, {}]),  # an argument missing
        json.dumps([[tenant_id, 7], {}, {}]),
        json.dumps([[tenant_id, new_id("ds")], {"extra": 1}, {}]),
        json.dumps({"args": 3}),
        "not json",
    ]
    last = new_id("ds")
    with redis_server.client() as client, Rings(redis_server.url) as rings:
        for body in bodies:
            client.lpush("cache", _message(task="datasets.verify", body=body))
        client.lpush("cache", _message(task="os.system", body=json.dumps([["x"], {}, {}])))
        pickled = _message(
            task="datasets.verify", body="x", content_type="application/x-python-serialize"
        )
        client.lpush("cache", pickled)
        rings.dataset(tenant_id, last)
        listener.wait_for(f"end {last}")

        assert listener.heard() == ["up", f"begin {last}", f"end {last}"]
        assert client.llen("cache") == 0
        wait_until(lambda: client.hlen("unacked") == 0, what="acknowledgements")
    dropped = [line for line in listener.log().splitlines() if "ring_dropped" in line]
    assert len(dropped) == len(bodies) + 2, listener.log()
    assert "Traceback" not in listener.log(), listener.log()
    assert "passwd" not in listener.log()


def test_a_publisher_fails_fast_without_a_broker() -> None:
    with Rings(f"redis://127.0.0.1:{free_port()}/0") as rings:
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(BrokerDownError):
                rings.trainer("cpu", new_id("run"))
            assert time.monotonic() - started < 3.0


def test_a_publisher_fails_fast_when_the_broker_hangs(redis_server: RedisServer) -> None:
    with Rings(redis_server.url) as rings:
        rings.trainer("cpu", new_id("run"))
        redis_server.freeze()
        started = time.monotonic()
        with pytest.raises(BrokerDownError):
            rings.trainer("cpu", new_id("run"))
        assert time.monotonic() - started < 3.0
        redis_server.thaw()
        wait_until(lambda: _rang(rings, new_id("ds")), what="the broker to answer")
