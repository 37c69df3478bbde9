"""The training process's part of a trace: one span a stage, from the events that it writes.

It has no network and no credential, so it sends nothing itself. And a process that was killed has
written its events.
"""

import time
from types import TracebackType
from typing import Final, Self

from services.traces.spans import Facts, record_span
from trainer_core.process.events import OUTCOMES, Event

_STAGES: Final = frozenset(
    {"loading", "training", "evaluating", "paused", "checkpointing", "sampling", "finalizing"}
)
"""Anything else is not sent on: the process reads what tenants wrote."""


class StageSpans:
    """Records a span at the end of each stage; the last one at the latest with the block."""

    def __init__(self, pid: int) -> None:
        """``pid``: of the training process."""
        self._pid = pid
        self._stage: str | None = None
        self._since_s = time.time()
        self._step = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._enter(None, "interrupted")  # unless it ended by itself

    def note(self, event: Event) -> None:
        """Take its next event, at once: the spans have this process's clock."""
        self._step = event.step
        stage = str(event.data.get("stage"))
        if event.name in OUTCOMES:
            self._enter(None, event.name)
        elif event.name == "stage" and stage in _STAGES:
            self._enter(stage, None)

    def _enter(self, stage: str | None, outcome: str | None) -> None:
        if stage == self._stage:
            return
        now_s = time.time()
        if self._stage is not None:
            facts: Facts = {"stage": self._stage, "step": self._step, "pid": self._pid}
            if outcome is not None:
                facts["outcome"] = outcome
            record_span(
                f"training process: {self._stage}",
                started_s=self._since_s,
                ended_s=now_s,
                of_child=True,
                **facts,
            )
        self._stage, self._since_s = stage, now_s
