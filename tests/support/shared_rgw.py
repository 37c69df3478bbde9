"""One Ceph RGW for all processes of a session of tests.

``python -m tests.support.shared_rgw FILE`` starts it, and then writes how to reach it to FILE. Its
stdin is the pipe that the session's owner holds open (see ``forking``): it ends with the owner.
"""

import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.support.forking import open_owner, session_folder
from tests.support.proxy import FaultProxy
from tests.support.rgw import START_S, Bucket, RgwServer, S3Server, need_rgw, use_credentials


def begin() -> int:
    """Start it without waiting, unless a process of the session has; returns its pid."""
    pid_file = session_folder() / "rgw.pid"
    with (session_folder() / "rgw.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not pid_file.exists():
            pid_file.write_text(str(_begin()))
        return int(pid_file.read_text())


def _begin() -> int:
    owner = open_owner()
    try:
        with _log().open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.shared_rgw", str(_file())],
                stdin=owner,
                stdout=log,
                stderr=log,
            )
    finally:
        os.close(owner)
    _started.append(process)
    return process.pid


_started: list[subprocess.Popen[bytes]] = []


def shared_rgw() -> S3Server:
    """The session's server; waits until it is up."""
    ended = os.pidfd_open(begin())
    end_s = time.monotonic() + START_S
    try:
        while not _file().exists():
            assert not select.select([ended], [], [], 0.1)[0], _log().read_text()[-3000:]
            assert time.monotonic() < end_s, "the S3 server is not up"
    finally:
        os.close(ended)
    return S3Server(**json.loads(_file().read_text()))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Where several processes will run tests, it starts before the first that needs it."""
    options = session.config.option
    if (
        getattr(options, "processes", 1) > 1
        and not options.collectonly
        and any("rgw_server" in getattr(item, "fixturenames", ()) for item in session.items)
    ):
        begin()


@pytest.fixture(scope="session")
def rgw_server() -> S3Server:
    """Ceph RGW; see ``need_rgw``."""
    need_rgw()
    return shared_rgw()


@pytest.fixture
def rgw_bucket(rgw_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket for this test alone; its credentials are in the environment."""
    bucket = rgw_server.create_bucket()
    use_credentials(bucket, monkeypatch)
    return bucket


@pytest.fixture
def rgw_proxy(rgw_bucket: Bucket) -> Iterator[FaultProxy]:
    """Before the server of ``rgw_bucket``."""
    with FaultProxy(rgw_bucket.port).running() as proxy:
        yield proxy


def _file() -> Path:
    return session_folder() / "rgw.json"


def _log() -> Path:
    return session_folder() / "rgw.log"


def _main(file: Path) -> None:
    server = RgwServer()
    server.start()
    try:
        new = file.with_suffix(".new")
        new.write_text(json.dumps(asdict(server.s3)))
        new.rename(file)
        select.select([sys.stdin], [], [])
    finally:
        server.stop()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
