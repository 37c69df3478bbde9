"""What may still be charged to the run, counted between renewals by this machine's own clock."""

import threading
import time
from collections.abc import Callable
from typing import Final

from services.domain.states import CHARGED_STAGES

_CHARGED: Final = CHARGED_STAGES | {"evaluating"}
"""As the training process names them: the ledger counts an evaluation as training."""


class Budget:
    """Seconds of charged stages that are left; safe to share among threads.

    The ledger charges by the database's clock and has the last word: each renewal sets what is
    left. In between this counts as the ledger does, so that the holder renews when nothing is left.
    """

    def __init__(self, left_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """``left_s``: from the claim; None: nothing limits the run."""
        self._left_s = left_s
        self._clock = clock
        self._lock = threading.Lock()
        self._charged_since_s: float | None = None
        """None outside the charged stages."""

    def set(self, left_s: float | None) -> None:
        """Take what the ledger says is left now."""
        with self._lock:
            self._left_s = left_s
            if self._charged_since_s is not None:
                self._charged_since_s = self._clock()

    def enter(self, stage: str | None) -> None:
        """The training process has entered this stage; None where it has ended."""
        with self._lock:
            now_s = self._clock()
            if self._left_s is not None and self._charged_since_s is not None:
                self._left_s -= now_s - self._charged_since_s
            self._charged_since_s = now_s if stage in _CHARGED else None

    @property
    def left_s(self) -> float | None:
        """Seconds that may still be charged, below 0 where it was exceeded; None: no limit."""
        with self._lock:
            if self._left_s is None or self._charged_since_s is None:
                return self._left_s
            return self._left_s - (self._clock() - self._charged_since_s)
