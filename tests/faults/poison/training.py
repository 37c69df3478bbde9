"""Poison that a worker meets while it trains."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.faults.poison.host import Host
from tests.support.waiting import wait_until


@contextlib.contextmanager
def kills_its_process(host: Host) -> Iterator[str]:
    """F39: the training process dies in the third step, each time."""
    with _faulty(host, "train.after_backward@3=kill") as run_id:
        yield run_id


@contextlib.contextmanager
def endless_step(host: Host) -> Iterator[str]:
    """F34: the third step never ends, each time."""
    with _faulty(host, "train.after_backward@3=stall") as run_id:
        yield run_id


@contextlib.contextmanager
def _faulty(host: Host, fault: str) -> Iterator[str]:
    dataset_id = host.push(host.ada, host.files())
    run_id = host.submit(
        dataset_id, tracker_run_name=fault, max_train_steps=8, checkpoint_step_interval=8
    )
    wait_until(
        lambda: host.ask("SELECT FROM runs WHERE run_id = %(run_id)s AND fence > 0", run_id=run_id),
        what="the first attempt",
    )
    yield run_id


@contextlib.contextmanager
def not_a_number(host: Host) -> Iterator[str]:
    """F32: a learning rate with which the weights leave the range of numbers."""
    yield host.submit(host.push(host.ada, host.files()), learning_rate="1e15")


@contextlib.contextmanager
def full_disk(host: Host) -> Iterator[str]:
    """F28: the scratch of one of two workers is full while it trains."""
    if host.small_disk is None:
        pytest.skip("this user may not mount a file system")
    dataset_id = host.push(host.ada, host.files())
    for _ in range(2):  # one for each worker
        host.submit(dataset_id, max_train_steps=60, checkpoint_step_interval=5)
    run_id = wait_until(lambda: _trains_on_small_disk(host), what="a run on the small disk")
    filler = host.small_disk / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    wait_until(lambda: _drain_reason(host), what="the worker to drain")
    yield run_id
    filler.unlink()
    wait_until(lambda: _drain_reason(host) is None, what="the worker to come back")


def _trains_on_small_disk(host: Host) -> str | None:
    found = host.ask(
        "SELECT run_id FROM attempts JOIN runs USING (run_id)"
        " WHERE node = 'a' AND outcome IS NULL AND stage = 'training'"
    )
    return found[0][0] if found else None


def _drain_reason(host: Host) -> str | None:
    ((code,),) = host.ask("SELECT drain_reason->>'code' FROM workers WHERE node = 'a'")
    return None if code is None else str(code)
