"""Work in a thread that an attempt can abandon: an upload or a download may hang for minutes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import Final, Self, TypeVar

from services.trainer.lease import Lease

_LOOK_EVERY_S: Final = 0.1

Result = TypeVar("Result")


class Background:
    """One thread, for one call after the other; the end of the block does not wait for it."""

    def __init__(self, lease: Lease, name: str) -> None:
        """``name``: of the thread."""
        self._lease = lease
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abandon()

    def start(self, call: Callable[[], Result]) -> Future[Result]:
        """Call it in the thread, after what was started before."""
        # The context lets the thread's log lines name the run.
        return self._thread.submit(copy_context().run, call)

    def result_of(
        self, future: Future[Result], *, check: Callable[[], None] | None = None
    ) -> Result:
        """Wait for the call's result; raises its error, or before that as ``check``.

        ``check``: None stands for ``Lease.check``.
        """
        check = check or self._lease.check
        while True:
            try:
                return future.result(timeout=_LOOK_EVERY_S)
            except TimeoutError:
                if future.done():  # since that moment, or with a TimeoutError of its own
                    return future.result()
            check()

    def abandon(self) -> None:
        """Start nothing more; what runs is left to itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)
