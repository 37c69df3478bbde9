import os
import subprocess
import sys

import pytest

from trainer_core.process.supervision import (
    EXIT_ORPHANED,
    SupervisorGoneError,
    current_process_token,
    parse_supervisor,
    start_watch,
)

# The parent starts a child that watches it, prints the pid of the child and waits to be killed.
PARENT = """
import subprocess, sys
from trainer_core.process.supervision import current_process_token
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], current_process_token()])
print(child.pid, flush=True)
child.wait()
"""
CHILD = """
import sys, threading
from trainer_core.process.supervision import parse_supervisor, start_watch
start_watch(*parse_supervisor(sys.argv[1]))
print("watching", flush=True)
threading.Event().wait()
"""


def test_a_token_names_this_process() -> None:
    assert parse_supervisor(current_process_token()).pid == os.getpid()


@pytest.mark.parametrize("text", ["", "12", "12:", ":3", "a:b", "-1:2", "1:2:3", "0:1"])
def test_a_malformed_supervisor_token_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="PID:START_TICKS"):
        parse_supervisor(text)


def test_a_reused_process_id_is_not_the_supervisor() -> None:
    pid, ticks = parse_supervisor(current_process_token())

    with pytest.raises(SupervisorGoneError, match="another one"):
        start_watch(pid, ticks + 1)


def test_a_dead_process_is_not_the_supervisor() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    with pytest.raises(SupervisorGoneError):
        start_watch(gone.pid, 1)


def test_a_child_ends_when_its_supervisor_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    lines = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
    child_pid = int((lines - {"watching"}).pop())
    child = os.pidfd_open(child_pid)

    parent.kill()
    parent.wait()

    assert parent.stdout.read() == ""  # ends when the child has closed its copy of the pipe
    os.close(child)
    assert EXIT_ORPHANED == 70
