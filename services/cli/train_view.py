"""The display of a run in this process: progress bars on a terminal, else a few plain lines."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from services.cli import output
from services.cli.pace import Pace
from trainer_core.disk import writing
from trainer_core.local.output import View
from trainer_core.process.event_texts import outcome_line, preview_facts, stage_name, step_facts
from trainer_core.process.events import Event

_STDERR: Final = Path("standard error")
"""What an error of its disk names: the file that it was sent to is not known here."""
_LINE_EVERY_S: Final = 30.0
"""Without a terminal, long work prints a line at least this often."""
_LINES_A_RUN: Final = 10


@contextmanager
def open_view(console: Console) -> Iterator[View]:
    """Bars where the console is a terminal, else plain lines."""
    if not console.is_terminal:
        yield PlainView(console)
        return
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield LiveView(console, progress)


class _Warnings:
    """Returns each warning once."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def new_in(self, event: Event) -> list[str]:
        texts = event.data.get("warnings", []) if event.name == "plan" else []
        if event.name == "warning":
            texts = [event.data["message"]]
        new = [text for text in dict.fromkeys(map(str, texts)) if text not in self._shown]
        self._shown.update(new)
        return new


class LiveView:
    """One bar for the current stage; the bars of earlier stages stay visible."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress
        self._warnings = _Warnings()
        self._pace = Pace()
        self._task: tuple[str, TaskID] | None = None
        self._max_steps = 0

    def log(self, text: str) -> None:
        self._console.print(output.text_of(text), soft_wrap=True)

    def progress(self, stage: str, done: int, total: int) -> None:
        facts = self._pace.facts(stage, done, total, time.monotonic())
        self._show(stage, done, total, facts)

    def event(self, event: Event) -> None:
        for text in self._warnings.new_in(event):
            self._console.print(output.text_of(f"warning: {text}", "yellow"), soft_wrap=True)
        match event.name:
            case "plan":
                self._max_steps = event.data["steps"]
            case "step":
                self._show("training", event.step, self._max_steps, step_facts(event))
            case "preview":
                self._show("training", event.step, self._max_steps, preview_facts(event))
                assert self._task is not None
                self._progress.update(self._task[1], description="pictures")
            case "stage" if self._task is not None and self._task[0] == "training":
                self._progress.update(self._task[1], description=stage_name(event))
        if line := outcome_line(event):
            self.log(line)

    def _show(self, stage: str, done: int, total: int, facts: str) -> None:
        if self._task is None or self._task[0] != stage:
            self._task = stage, self._progress.add_task(stage, total=total, facts="")
        task = self._task[1]
        self._progress.update(task, description=stage, completed=done, total=total, facts=facts)


class PlainView:
    """Lines: the first and the last of a stage, and a few between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._warnings = _Warnings()
        self._pace = Pace()
        self._max_steps = 0
        self._stage = ""
        self._shown_done = 0
        self._shown_s = float("-inf")

    def log(self, text: str) -> None:
        """Print a line. Raises DiskError where it goes to a file on a full disk."""
        with writing(_STDERR):
            self._console.print(output.text_of(text), soft_wrap=True)

    def progress(self, stage: str, done: int, total: int) -> None:
        facts = self._pace.facts(stage, done, total, time.monotonic())
        if self._is_due(stage, done, total, every=max(1, total)):
            self.log(f"{stage}: {done} of {total}" + (f", {facts}" if facts else ""))

    def event(self, event: Event) -> None:
        for text in self._warnings.new_in(event):
            self.log(f"warning: {text}")
        match event.name:
            case "plan":
                self._max_steps = event.data["steps"]
            case "step":
                step, every = event.step, max(1, self._max_steps // _LINES_A_RUN)
                if self._is_due("training", step, self._max_steps, every=every):
                    self.log(f"step {step}/{self._max_steps}: {step_facts(event)}")
            case "preview" if self._is_due("preview", 0, 1, every=1):
                self.log(f"step {event.step}: preview of {preview_facts(event)}")
            case "stage" if event.data["stage"] not in ("training", "evaluating", "checkpointing"):
                self.log(stage_name(event))
        if line := outcome_line(event):
            self.log(line)

    def _is_due(self, stage: str, done: int, total: int, *, every: int) -> bool:
        now_s = time.monotonic()
        is_due = (
            stage != self._stage
            or done == total
            or done // every > self._shown_done // every
            or now_s - self._shown_s >= _LINE_EVERY_S
        )
        if is_due:
            self._stage, self._shown_done, self._shown_s = stage, done, now_s
        return is_due
