"""Builds the batches of the coming steps in a thread, while the device works on this one."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from trainer_core.data.sampler import MicroBatch
from trainer_core.engine.batch import Batch
from trainer_core.engine.control import check_own_stop, check_stop
from trainer_core.engine.setup import request_entry
from trainer_core.engine.state import Run
from trainer_core.engine.transfer import Arriving, Transfer

_AHEAD: Final = 2
"""Batches that wait for their step."""
_LOOK_EVERY_S: Final = 0.2


class Feed:
    """Gives this rank's batches in order, each on the device. The thread ends with the block.

    A batch that cannot be built raises its error where the batch is asked for.
    """

    def __init__(self, run: Run, after_step: int) -> None:
        """``after_step``: the step before the first one that is fed."""
        self._run = run
        self._micro_batches = _micro_batches(run, after_step)
        self._batches = run.loaded.batches.for_feed(run.loaded.entries.beside(self._wait))
        self._transfer = Transfer(run.loaded.network.compute.device)
        self._ready: deque[Arriving | Exception] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._fill, name="feed", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()

    def await_step(self) -> None:
        """Wait until every rank has its next batch, or the error of building it.

        Every rank calls it before it launches the same step. Raises StopRequestedError, on all
        ranks, where a stop is requested meanwhile: one that stopped alone while it waits would
        leave the others in the step's collective operations. Ranks that have agreed that all have
        one (``Agreement``) need not call it.
        """
        while self._run.backend.max_across_ranks(int(not self._has_next())):
            check_stop(self._run)

    @property
    def has_batch(self) -> bool:
        """Whether the next batch, or the error of building it, is there."""
        return bool(self._ready)

    def _has_next(self) -> bool:
        """Waits a little for it."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._ready), _LOOK_EVERY_S)

    def take(self, count: int) -> Iterator[Batch]:
        """The next ``count`` batches; waits for each.

        Raises what building one raised, and in a run of one process StopRequestedError where a stop
        is requested during the wait.
        """
        for _ in range(count):
            yield self._transfer.finish(self._next())

    def _next(self) -> Arriving:
        with self._changed:
            while not self._ready:
                self._changed.wait(_LOOK_EVERY_S)
                check_own_stop(self._run)
            if isinstance(self._ready[0], Exception):
                raise self._ready[0]
            batch = self._ready.popleft()
            assert isinstance(batch, Arriving)
            self._changed.notify_all()
            return batch

    def _fill(self) -> None:
        """What the thread does."""
        with suppress(_ClosedError):
            try:
                for micro_batch in self._micro_batches:
                    self._put(self._transfer.start(self._batches.training(micro_batch)))
            except _ClosedError:
                raise
            except Exception as error:  # noqa: BLE001 - raised again where the batch is taken
                self._put(error)

    def _put(self, item: Arriving | Exception) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._ready) < _AHEAD or self._is_closing)
            self._check_open()
            self._ready.append(item)
            self._changed.notify_all()

    def _wait(self, digest: str) -> None:
        """Called while an entry is missing."""
        request_entry(self._run.job, digest)
        self._check_open()

    def _check_open(self) -> None:
        if self._is_closing:
            raise _ClosedError


class _ClosedError(Exception):
    """The block was left before all batches were taken."""


def _micro_batches(run: Run, after_step: int) -> Iterator[MicroBatch]:
    """This rank's micro-batches up to the last step."""
    per_step, rank, ranks = run.micro_batches_per_step, run.backend.rank, run.backend.ranks
    for i in range(after_step * per_step + rank, run.last_step * per_step, ranks):
        yield run.sampler.micro_batch(i)
