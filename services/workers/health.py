"""A worker that cannot work takes no work, says why, and comes back when it can.

An attempt that fails because of its worker makes the worker check itself. Meanwhile it is draining:
its heartbeat names the reason, and the dispatcher offers its work to others.
"""

import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from services.domain.attempt_budgets import WORKER_FAULTS
from services.domain.failures import infra_failure
from services.objects.errors import ObjectStoreError, ObjectStoreRefusedError, WrongClockError
from services.objects.port import AttemptObjects
from services.workers.device_check import GpuState, gpu_state
from services.workers.scratch import MIN_FREE_BYTES, Scratch
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_LOOK_EVERY_S: Final = 10.0
_OF_STORE: Final = {
    ObjectStoreRefusedError.code: "The object store refuses this worker; the worker's log has its "
    "answer. Look at REVERIE_OBJECTS_URL, and at the credentials (AWS_*) and their rights.",
    WrongClockError.code: "The object store refuses this worker, because the clock of its machine "
    "is wrong: set it, and see that NTP keeps it right.",
}
_OF_GPU: Final = {
    "gpu_failed": "A GPU of this machine does not compute; the worker's log has the reason. Reset "
    "the GPU, or take the machine out of service.",
    "gpu_missing": "CUDA finds no GPU on this machine that computes, and REVERIE_GPU_CLASS "
    "promises one; the worker's log has the reason. Repair the GPU or its driver, or take the "
    "machine out of service.",
}
_MEMORY_TAKEN: Final = infra_failure(
    "gpu_memory_taken",
    "Other processes hold memory of a GPU of this machine; the worker's log says how much. End "
    "them, or give the worker a GPU of its own.",
)


class WorkerHealth:
    """Checks the worker at the start of the block, and then in a thread."""

    def __init__(
        self,
        scratch: Scratch,
        objects: AttemptObjects,
        *,
        scratch_bytes: int,
        models_dir: Path,
        needs_gpu: bool,
        program: Sequence[str],
        on_change: Callable[[], None],
    ) -> None:
        """
        Args:
            scratch_bytes: what has to be free after a piece of work has filled the disk.
            models_dir: has to be readable.
            needs_gpu: check at the start that there is a GPU, and that all of them compute.
            program: such as ``python -m trainer_core``; asked whether the GPUs compute.
            on_change: called when the worker begins or ends to drain, or has another reason.
        """
        self._scratch = scratch
        self._objects = objects
        self._scratch_bytes = scratch_bytes
        self._models_dir = models_dir
        self._program = program
        self._on_change = on_change
        self._lock = threading.RLock()
        self._fault = infra_failure("gpu_missing", "") if needs_gpu else None
        """How the last piece of work failed, if that was because of this worker. Before the first
        check a GPU that is needed counts as missing."""
        self._reason: Failure | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._is_closing = False
        self._awake = threading.Event()
        self._thread = threading.Thread(target=self._check_until_closed, name="health", daemon=True)

    def __enter__(self) -> Self:
        self._check()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Not joined: a check may hang in a driver or on a network disk.
        self._is_closing = True
        self._awake.set()

    @property
    def drain_reason(self) -> Failure | None:
        """Why the worker takes no work now, for the operator; None where it does."""
        return self._reason

    def must_decline(self) -> Failure | None:
        """``drain_reason``, after another look at the disk, which may be full since a moment."""
        if self._reason is None and (problem := self._space_problem(MIN_FREE_BYTES)) is not None:
            self._set_reason(problem)
            self._awake.set()
        return self._reason

    def note_failure(self, failure: Failure) -> None:
        """Report how a piece of work failed; the worker drains if that was because of it."""
        if failure.code not in WORKER_FAULTS:
            return
        with self._lock:
            self._fault = failure
            self._set_reason(failure)
        self._awake.set()

    def note_success(self) -> None:
        """Report that a piece of work was done: the next fault begins with a short pause again."""
        self._pause_s = _FIRST_PAUSE_S

    def _check_until_closed(self) -> None:
        while True:
            is_new = self._awake.wait(self._next_pause_s())
            self._awake.clear()
            if self._is_closing:
                return
            if not is_new:  # a new fault begins with a pause, too: the check may not find it
                self._check()

    def _next_pause_s(self) -> float:
        if self._reason is None:
            return _LOOK_EVERY_S
        pause_s = self._pause_s
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
        return pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret

    def _check(self) -> None:
        fault = self._fault
        try:
            problem = self._problem(fault)
        except Exception:  # the thread's outermost loop: a check that fails finds nothing
            log.exception("worker_not_checked")
            problem = None
        with self._lock:
            if self._fault is not fault:
                return  # another piece of work has failed meanwhile
            if problem is None:
                self._fault = None
            self._set_reason(problem)

    def _problem(self, fault: Failure | None) -> Failure | None:
        """What keeps the worker from working; looks closer at what ``fault`` names."""
        code = None if fault is None else fault.code
        needed_bytes = self._scratch_bytes if code == "worker_disk_full" else MIN_FREE_BYTES
        if (problem := self._space_problem(needed_bytes)) is not None:
            return problem
        try:
            self._scratch.prove_writable()
        except OSError as error:
            return _disk_failed(error)
        try:
            next(self._models_dir.iterdir(), None)
        except OSError as error:
            return infra_failure(
                "base_models_unreadable",
                f"REVERIE_MODELS_DIR cannot be read ({error.strerror}): mount it again.",
            )
        if code in _OF_STORE and not self._store_accepts():
            return infra_failure(code, _OF_STORE[code])
        if code in _OF_GPU or code == _MEMORY_TAKEN.code:
            return self._gpu_problem(code)
        return None

    def _space_problem(self, needed_bytes: int) -> Failure | None:
        try:
            has_space = self._scratch.has_space(needed_bytes)
        except OSError as error:  # the folder is gone, such as one on a lost network disk
            return _disk_failed(error)
        return None if has_space else _disk_full(needed_bytes)

    def _gpu_problem(self, code: str) -> Failure | None:
        """What is wrong with the GPUs; that others use one matters only once a run did not fit."""
        state = gpu_state(self._program)
        if state is GpuState.FAILED:
            failed = code if code in _OF_GPU else "gpu_failed"
            return infra_failure(failed, _OF_GPU[failed])
        is_taken = state is GpuState.MEMORY_TAKEN and code == _MEMORY_TAKEN.code
        return _MEMORY_TAKEN if is_taken else None

    def _store_accepts(self) -> bool:
        """Whether the worker can write and read; as when it started."""
        try:
            self._objects.prove_conditional_writes()
        except ObjectStoreError as error:
            log.warning("object_store_failed", code=error.code, reason=str(error))
            return False
        return True

    def _set_reason(self, reason: Failure | None) -> None:
        with self._lock:
            before, self._reason = self._reason, reason
        if (before and before.code) == (reason and reason.code):
            return
        if reason is None:
            log.info("worker_works_again")
        else:
            log.error("worker_draining", code=reason.code, reason=reason.message)
        self._on_change()


def _disk_failed(error: OSError) -> Failure:
    return infra_failure(
        "worker_disk_failed",
        f"Nothing can be written to REVERIE_SCRATCH_DIR ({error.strerror}): repair the "
        "disk, or set another folder, and start the worker again.",
    )


def _disk_full(needed_bytes: int) -> Failure:
    return infra_failure(
        "worker_disk_full",
        f"REVERIE_SCRATCH_DIR has less than {needed_bytes / 2**20:.0f} MiB free, or no free "
        "inodes: free the disk, or lower REVERIE_SCRATCH_BYTES.",
    )
