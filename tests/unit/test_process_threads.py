"""A process ends in time though a thread of it hangs, and its log names the thread."""

import json
import subprocess
import sys
import textwrap
import threading

import pytest
from structlog.testing import capture_logs

from services.processes.threads import wait_for_end


def test_a_thread_that_does_not_end_is_named_with_its_line() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="lease", daemon=True)
    thread.start()
    with capture_logs() as logs:
        wait_for_end(thread, 0.01)
        release.set()
        wait_for_end(thread, 60)

    (said,) = logs
    assert (said["event"], said["thread"], said["waited_s"]) == (
        "thread_did_not_end",
        "lease",
        0.01,
    )
    assert "threading.py:" in said["at"]


PROGRAM = """
    import sys, threading
    from concurrent.futures import ThreadPoolExecutor
    from services.logs.setup import configure
    from services.processes.threads import leave

    configure("here", "json")
    pool = ThreadPoolExecutor(1, thread_name_prefix="upload")
    pool.submit(threading.Event().wait) if "hangs" in sys.argv else pool.submit(int).result()
    pool.shutdown(wait=False)
    print("done")
    leave(3, within_s=0.01)
"""


@pytest.mark.parametrize("left", ["hangs", "idle"])
def test_a_pool_that_was_abandoned_does_not_hold_its_process(left: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), left],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (3, "done\n")
    threads = [json.loads(line)["thread"] for line in done.stderr.splitlines()]
    assert threads == (["upload_0"] if left == "hangs" else [])
