"""The parts of a start, and how long this process has lived."""

import os
import subprocess
import sys
import time

from trainer_core.engine.start_times import StartTimes
from trainer_core.process.stat import age_s


def test_parts_follow_one_another_and_add_up() -> None:
    started_s = time.monotonic()
    times = StartTimes()
    time.sleep(0.05)
    times.end("weights_s")
    times.end("network_s")
    time.sleep(0.03)
    times.end("first_step_s")
    passed_s = time.monotonic() - started_s

    found = times.as_json()

    assert list(found) == ["process_s", "weights_s", "network_s", "first_step_s", "total_s"]
    parts = sum(seconds for part, seconds in found.items() if part != "total_s")
    assert abs(found["total_s"] - parts) < 0.005
    assert 0.05 <= found["weights_s"] < passed_s
    assert 0.03 <= found["first_step_s"] < passed_s
    assert found["network_s"] < 0.03
    assert found["process_s"] >= 0.1  # the interpreter and pytest


def test_the_age_of_a_process_is_counted_from_its_start() -> None:
    started_s = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        time.sleep(0.2)
        age = age_s(child.pid)
        passed_s = time.monotonic() - started_s
        child.communicate(b"\n")

    assert 0.1 <= age <= passed_s + 0.02  # to a clock tick
    assert age_s(child.pid) == 0.0
    assert age_s(os.getpid()) > age
