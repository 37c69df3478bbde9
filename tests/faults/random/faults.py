"""Each kind of fault, done to the running stack. Each tells whether it met anything."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import psycopg

from services.domain.errors import IllegalTransitionError, RunOverError
from services.queue.rings import Rings
from services.store import run_changes, run_control
from services.store.database import Connection
from services.store.run_changes import RunChanges
from tests.faults.random.schedule import Fault
from tests.faults.random.stack import FULL_DISK, ODD_CLOCK, Stack
from tests.support.fleet import training_children
from tests.support.proxy import MODES, Mode

T = TypeVar("T")

_MEETS_WITHIN_S = 12.0
"""How long a fault waits for something that it can meet, such as a run that is training."""
_TAKEN_WITHIN_S = 60.0
"""How long a frozen trainer waits until another is free and takes its run."""
_LOCKS = {name: threading.Lock() for name in ("postgres", "redis", "s3", "https", "freezes")}
_TRAINERS = ("trainer_a", "trainer_b", "box_a", "box_b")
_HELD = """
SELECT runs.run_id, runs.fence, runs.worker_id, holder.app FROM runs CROSS JOIN LATERAL (
    SELECT app FROM audit WHERE audit.run_id = runs.run_id AND what = 'claim'
    ORDER BY id DESC LIMIT 1) AS holder
WHERE runs.lease_until IS NOT NULL AND runs.stage = 'training' AND runs.step > 0
ORDER BY runs.run_id
"""
_UNFINISHED = """
SELECT run_id, gpu_class FROM runs ORDER BY random() LIMIT 10
"""
CLOCKS = (7200, -86400, 600, -600)
"""Seconds by which the clock of one worker is wrong."""


def inject(stack: Stack, fault: Fault) -> str | None:
    """Do it and wait until it is over; None where it fired, else why not."""
    kind = fault.kind
    server, _, mode = kind.partition("_")
    if kind.startswith("kill_") and kind not in ("kill_training", "kill_trainer"):
        return _kill_slot(stack, fault)
    if server in stack.proxies and mode in MODES:
        return _disturb(stack, fault, server, mode)
    return _KINDS[kind](stack, fault)


def _kill_slot(stack: Stack, fault: Fault) -> str | None:
    kind = fault.kind.removeprefix("kill_")
    slots = [slot for slot in sorted(stack.slots) if slot.partition("_")[0] == kind]
    process = stack.process(_pick(slots, fault))
    if process.poll() is not None:
        return f"{kind} had ended"
    process.kill()
    return None


def _disturb(stack: Stack, fault: Fault, server: str, mode: Mode) -> str | None:
    proxy = stack.proxies[server]
    with _LOCKS[server]:
        before = proxy.hits[mode]
        proxy.set(mode)
        time.sleep(fault.duration_s)  # the fault lasts this long
        proxy.set("ok")
        return None if proxy.hits[mode] > before else "no traffic"


def _kill_trainer(stack: Stack, fault: Fault) -> str | None:
    with _holder(stack, fault) as slot:
        if slot is None:
            return "no run was training"
        stack.process(slot).kill()
        return None


def _stop_trainer(stack: Stack, fault: Fault) -> str | None:
    with _holder(stack, fault) as slot:
        if slot is None:
            return "no run was training"
        stack.process(slot).terminate()
        return None


def _stop_all_trainers(stack: Stack, _fault: Fault) -> str | None:
    for slot in _TRAINERS:
        stack.process(slot).terminate()
    return None


def _pause_run(stack: Stack, fault: Fault) -> str | None:
    """A tenant pauses a run that trains, puts it first in its line, and resumes it later."""
    held = _wait_for(lambda: _held(stack))
    if not held:
        return "no run was training"
    run_id = _pick(held, fault)[0]
    try:
        _control(stack, run_id, run_control.pause)
    except IllegalTransitionError:
        return "the run ended before"
    try:
        _control(stack, run_id, _put_first)
        time.sleep(fault.duration_s)  # the pause lasts this long
    finally:
        with contextlib.suppress(IllegalTransitionError):  # it took its last step meanwhile
            _control(stack, run_id, run_control.resume)
    return None


def _put_first(conn: Connection, tenant_id: str, run_id: str) -> None:
    with contextlib.suppress(RunOverError):
        run_changes.change(conn, tenant_id, run_id, RunChanges(values={"priority": 1}))


def _control(stack: Stack, run_id: str, act: Callable[[Connection, str, str], object]) -> None:
    """Do it in the place of the API, again and again while the server is down."""
    while True:
        with _unless_down(), stack.database() as conn, conn.transaction():
            row = conn.execute("SELECT tenant_id FROM runs WHERE run_id = %s", (run_id,))
            ((tenant_id,),) = row.fetchall()
            act(conn, tenant_id, run_id)
            return
        time.sleep(0.2)


def _kill_training(stack: Stack, fault: Fault) -> str | None:
    places = (stack.home, *([stack.small_disk] if stack.small_disk else []))
    pids = _wait_for(lambda: sorted({p for place in places for p in training_children(place)}))
    if not pids:
        return "no run was training"
    with contextlib.suppress(ProcessLookupError):
        os.kill(_pick(pids, fault), signal.SIGKILL)
        return None
    return "the training process ended before"


def _freeze_trainer(stack: Stack, fault: Fault) -> str | None:
    """SIGSTOP until another worker holds the run, then SIGCONT."""
    with _LOCKS["freezes"]:
        held = _wait_for(lambda: _held(stack))
        if not held:
            return "no run was training"
        run_id, fence, slot = _pick(held, fault)
        process = stack.process(slot)
        process.send_signal(signal.SIGSTOP)
        try:
            is_taken = _wait_for(lambda: _is_taken(stack, run_id, fence), within_s=_TAKEN_WITHIN_S)
            time.sleep(fault.duration_s)  # the next holder writes meanwhile
        finally:
            process.send_signal(signal.SIGCONT)
        return None if is_taken else "no other worker took the run"


def _redis_flush(stack: Stack, _fault: Fault) -> str | None:
    with _LOCKS["redis"]:
        stack.redis.flush()
    return None


def _redis_restart_empty(stack: Stack, fault: Fault) -> str | None:
    with _LOCKS["redis"]:
        stack.redis.kill()
        time.sleep(fault.duration_s)  # the fault lasts this long
        stack.redis.start()
    return None


def _ring_again(stack: Stack, _fault: Fault) -> str | None:
    """Every ring of some runs ten times, also of runs that are over."""
    with _LOCKS["redis"], stack.database() as conn, Rings(stack.redis.url) as rings:
        runs = conn.execute(_UNFINISHED).fetchall()
        for run_id, gpu_class in runs * 10:
            rings.trainer(gpu_class, run_id)
    return None if runs else "no run yet"


def _postgres_crash(stack: Stack, fault: Fault) -> str | None:
    with _LOCKS["postgres"]:
        stack.postgres.stop("immediate")
        time.sleep(fault.duration_s)  # the fault lasts this long
        stack.postgres.start()
    return None


def _disk_full(stack: Stack, fault: Fault) -> str | None:
    if stack.small_disk is None:
        return "skipped: a small file system needs root"
    filler = stack.small_disk / "filler"
    try:
        with filler.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        time.sleep(fault.duration_s)  # the fault lasts this long
    finally:
        filler.unlink()
    return None if stack.process(FULL_DISK).poll() is None else "no worker"


def _clock_step(stack: Stack, fault: Fault) -> str | None:
    if stack.clock is None:
        return "skipped: a wrong clock needs a C compiler"
    stack.clock.set(_pick(CLOCKS, fault))
    time.sleep(fault.duration_s)  # the fault lasts this long
    stack.clock.set(0)
    return None if stack.process(ODD_CLOCK).poll() is None else "no worker"


_KINDS: dict[str, Callable[[Stack, Fault], str | None]] = {
    "kill_trainer": _kill_trainer,
    "kill_training": _kill_training,
    "stop_trainer": _stop_trainer,
    "stop_all_trainers": _stop_all_trainers,
    "freeze_trainer": _freeze_trainer,
    "pause_run": _pause_run,
    "redis_flush": _redis_flush,
    "redis_restart_empty": _redis_restart_empty,
    "ring_again": _ring_again,
    "postgres_crash": _postgres_crash,
    "disk_full": _disk_full,
    "clock_step": _clock_step,
}


@contextlib.contextmanager
def _holder(stack: Stack, fault: Fault) -> Iterator[str | None]:
    """The slot of a trainer whose run is training."""
    held = _wait_for(lambda: _held(stack))
    yield _pick(held, fault)[2] if held else None


def _held(stack: Stack) -> list[tuple[str, int, str]]:
    """Run, fence and slot of each run that is training."""
    with _unless_down(), stack.database() as conn:
        rows = conn.execute(_HELD).fetchall()
        placed = [
            (run_id, fence, stack.box_of(worker_id) or stack.slot_of(app))
            for run_id, fence, worker_id, app in rows
        ]
        return [(run_id, fence, slot) for run_id, fence, slot in placed if slot is not None]
    return []


def _is_taken(stack: Stack, run_id: str, fence: int) -> bool:
    with _unless_down(), stack.database() as conn:
        row = conn.execute("SELECT fence > %s FROM runs WHERE run_id = %s", (fence, run_id))
        return bool((row.fetchone() or (False,))[0])
    return False


def _unless_down() -> contextlib.AbstractContextManager[None]:
    return contextlib.suppress(psycopg.OperationalError)


def _wait_for(ask: Callable[[], T], within_s: float = _MEETS_WITHIN_S) -> T:
    """The first truthy answer, or the last one."""
    end_s = time.monotonic() + within_s
    while not (answer := ask()) and time.monotonic() < end_s:
        time.sleep(0.1)
    return answer


def _pick(choices: Sequence[T], fault: Fault) -> T:
    return choices[min(int(fault.choice * len(choices)), len(choices) - 1)]
