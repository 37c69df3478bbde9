"""A child and all its descendants are killed, also those that have another parent by now."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from services.processes.child import ChildProcess, log_tail
from services.processes.errors import ChildDiedError, ChildError
from services.processes.pid_files import end_leftovers, write_pid_file
from services.processes.supervised import ChildSpec, SupervisedChild
from services.processes.supervisor import Restart, keep_running, wait_ready
from services.processes.tree import is_alive, send_signal
from tests.support.waiting import wait_until
from trainer_core.process.stat import ProcessId, identify

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]

# As torch's launcher does: each rank has a session of its own.
LAUNCHER = textwrap.dedent(
    """
    import subprocess, sys, time
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
        for _ in range(2)
    ]
    print(*(rank.pid for rank in ranks), flush=True)
    time.sleep(600)
    """
)


def started(tmp_path: Path, program: str) -> ChildProcess:
    return ChildProcess(
        [sys.executable, "-c", program], env=dict(os.environ), log_file=tmp_path / "log"
    )


def launched(tmp_path: Path) -> tuple[ChildProcess, list[ProcessId]]:
    """A launcher and its two ranks."""
    child = started(tmp_path, LAUNCHER)
    line = wait_until(
        lambda: log_tail(tmp_path / "log").endswith("\n") and log_tail(tmp_path / "log"),
        deadline_s=30,
        what="the launcher to start its ranks",
    )
    ranks = [identify(int(pid)) for pid in line.split()]
    return child, [rank for rank in ranks if rank is not None]


def test_a_kill_ends_the_ranks_with_their_launcher(tmp_path: Path) -> None:
    child, ranks = launched(tmp_path)
    assert [is_alive(rank) for rank in ranks] == [True, True]

    child.kill()

    assert not child.is_running
    assert [is_alive(rank) for rank in ranks] == [False, False]


def test_a_kill_ends_the_ranks_of_a_launcher_that_was_killed_before(tmp_path: Path) -> None:
    child, ranks = launched(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(10)
    assert [is_alive(rank) for rank in ranks] == [True, True]

    child.kill()

    assert child.exit_in_words() == "SIGKILL"
    assert [is_alive(rank) for rank in ranks] == [False, False]


def test_a_kill_does_not_touch_other_children(tmp_path: Path) -> None:
    other = started(tmp_path, "import time; time.sleep(600)")
    child, _ = launched(tmp_path)
    try:
        child.kill()
        assert other.is_running
    finally:
        other.kill()


def test_a_signal_is_not_sent_to_a_new_process_with_the_same_pid() -> None:
    with subprocess.Popen(SLEEP) as process:
        found = identify(process.pid)
        assert found is not None
        send_signal(ProcessId(found.pid, found.start_ticks + 1), signal.SIGKILL)
        assert process.poll() is None
        send_signal(found, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL


def test_leftovers_of_a_killed_supervisor_are_ended(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as process, subprocess.Popen([sys.executable, "-c", ""]) as gone:
        write_pid_file(tmp_path / "sleeper.json", process.pid)
        write_pid_file(tmp_path / "gone.json", gone.pid)
        gone.wait(10)

        assert end_leftovers(tmp_path, grace_s=10) == ["sleeper"]

        assert process.wait(10) != 0
    assert list(tmp_path.iterdir()) == []


def supervised(tmp_path: Path, program: str, *, is_server: bool) -> SupervisedChild:
    spec = ChildSpec(
        name="child",
        command=(sys.executable, "-c", program),
        env=dict(os.environ),
        is_server=is_server,
        stop_signal=signal.SIGTERM,
        stop_s=10,
        orphan_signal=signal.SIGKILL,
    )
    return SupervisedChild(spec, logs=tmp_path, pids=tmp_path)


def test_a_child_that_ends_before_it_is_ready_shows_its_log(tmp_path: Path) -> None:
    child = supervised(tmp_path, "print('no such option'); exit(3)", is_server=True)
    child.start()

    with pytest.raises(ChildDiedError, match=r"(?s)child ended \(exit status 3\).*no such option"):
        wait_ready(child, lambda: False, deadline_s=30, stop_asked=lambda: False)

    child.kill()
    assert not (tmp_path / "child.json").exists()


def test_the_end_of_a_server_is_an_error(tmp_path: Path) -> None:
    child = supervised(tmp_path, "exit(3)", is_server=True)
    child.start()

    with pytest.raises(ChildError, match=r"child ended \(exit status 3\)"):
        keep_running([child], stop_asked=lambda: False, report=lambda _: None)


def test_another_child_is_started_again(tmp_path: Path) -> None:
    child = supervised(tmp_path, "print('here')", is_server=False)
    reports: list[str] = []
    child.start()

    keep_running(
        [child],
        stop_asked=lambda: log_tail(child.log_file).count("here") == 2,
        report=reports.append,
    )

    child.kill()
    assert reports[0] == "child ended (exit status 0); it is started again in 1 s"


def test_the_pause_before_a_restart_doubles_up_to_half_a_minute(tmp_path: Path) -> None:
    child = supervised(tmp_path, "", is_server=False)
    restart = Restart()

    pauses = [restart.schedule(child, 1.0) for _ in range(7)]

    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert restart.schedule(child, 1000.0) == 1  # it ran long enough: the pause is reset
