"""Runs the parts of a step from CUDA graphs.

Launching a step takes the host longer than a small step takes the device. A graph is captured once,
and is then launched as a whole. It repeats the operations on the same tensors: everything that
varies between steps has to be in tensors that stay where they are.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from trainer_core.in_words import error_in_words

MAX_GRAPHS: Final = 17
"""Graphs at most: 16 shapes of batches, and the update. The driver keeps memory for each."""
_REHEARSALS: Final = 2
"""Runs before a capture: libraries set themselves up in the first, which a capture forbids."""

Run = Callable[[], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A part of a step."""

    key: Hashable
    """Equal for work that consists of the same operations on the same tensors."""
    run: Run
    rehearse: Run
    """The same operations; they may change nothing but ``changed``."""
    changed: Sequence[torch.Tensor]
    """What ``rehearse`` changes. It is put back afterwards."""


class Recorder(Protocol):
    """Captures graphs; ``cuda_graphs.CudaRecorder`` on a device."""

    def make_room(self) -> None:
        """Give memory that is not used now back to the device, so that graphs can have it."""

    def capture(self, run: Run) -> Run:
        """What repeats the operations of ``run``; they are not done yet.

        Raises RuntimeError where they cannot be captured.
        """

    def run_beside(self, run: Run) -> None:
        """Do the operations without a graph, in the memory that graphs use."""

    def clear(self) -> None:
        """Free the memory of all graphs; none of them may run any more."""


class Graphs:
    """Runs work from graphs, which it captures when it first meets the work.

    No work is ever done before its graph: it is rehearsed, captured, and then run from the graph.
    So a resumed run computes with the same kernels as one that was never interrupted.
    """

    def __init__(self, recorder: Recorder, warn: Callable[[str], None]) -> None:
        """``warn`` is told, once, why some work runs without a graph."""
        # First, because graphs have to be freed before the recorder frees their memory.
        self._graphs: dict[Hashable, Run] = {}
        self._recorder = recorder
        self._warn = warn
        self._captures = True

    def run(self, work: Work) -> None:
        """Do the work, in order with the current stream."""
        graph = self._graphs.get(work.key) or self._captured(work)
        if graph is None:
            self._recorder.run_beside(work.run)
        else:
            graph()

    def clear(self) -> None:
        """Free the graphs and their memory. Work that comes later is captured again."""
        self._graphs.clear()
        self._recorder.clear()

    def _captured(self, work: Work) -> Run | None:
        """A new graph of the work; None where there are too many, or a capture has failed."""
        if self._captures and len(self._graphs) == MAX_GRAPHS:
            self._stop(f"{MAX_GRAPHS} graphs are the most that are kept")
        if not self._captures:
            return None
        self._recorder.make_room()
        if not self._rehearsed(work):
            # Memory in pieces for smaller shapes is too small for this one: it gets them all anew,
            # and the others fit into its pieces when they are captured again.
            self.clear()
            self._recorder.make_room()
            self._rehearsed(work)
        try:
            graph = self._recorder.capture(work.run)
        except RuntimeError as error:
            self._stop(f"a capture failed: {error_in_words(error)}")
            return None
        self._graphs[work.key] = graph
        return graph

    def _rehearsed(self, work: Work) -> bool:
        """Rehearse; False where memory was missing, and graphs hold some that can be freed."""
        before = [tensor.clone() for tensor in work.changed]
        try:
            for _ in range(_REHEARSALS):
                self._recorder.run_beside(work.rehearse)
        except torch.OutOfMemoryError:
            if not self._graphs:
                raise
            return False
        finally:
            for tensor, value in zip(work.changed, before, strict=True):
                tensor.copy_(value)
        return True

    def _stop(self, reason: str) -> None:
        """Capture no more."""
        self._captures = False
        self._warn(f"Some work runs without a CUDA graph: {reason}.")
