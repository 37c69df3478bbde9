"""Where a local run shows what it does, and where its outcome is recorded."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from trainer_core.errors import OutOfMemoryError, TrainerError
from trainer_core.process.control import Control, StopRequestedError, Word
from trainer_core.process.events import Event, EventWriter
from trainer_core.process.requests import error_facts


class View(Protocol):
    """The display of a run, such as a terminal."""

    def log(self, text: str) -> None:
        """Show one line."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` units of the preparation's ``stage`` are done."""

    def event(self, event: Event) -> None:
        """Show one line of the event file, as it is written."""


class ControlledView:
    """The ``Reporter`` of a local run: shows on a view, pauses and stops by the control file."""

    def __init__(self, view: View, control: Control) -> None:
        self._view, self._control = view, control

    def log(self, text: str) -> None:
        self._view.log(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        self._view.progress(stage, done, total)

    def check_control(self) -> None:
        """Wait while a pause is requested; raise StopRequestedError when a stop is."""
        while self._control.word() is Word.PAUSE:
            self._control.wait()
        self._control.check()


def open_control(file: Path | None, output_dir: Path) -> Control:
    """The control file of a run; None: ``control`` in the output folder, emptied first.

    A request that an earlier run left in the output folder must not stop this one.
    """
    if file is not None:
        return Control(file)
    own = output_dir / "control"
    own.unlink(missing_ok=True)
    return Control(own)


@contextlib.contextmanager
def recorded_outcome(events: EventWriter) -> Iterator[None]:
    """Write whatever ends the run as its last event; only a requested stop raises nothing here."""
    try:
        yield
    except StopRequestedError:
        events.emit("stopped", events.last_step, {})
    except TrainerError as error:
        _record_failure(events, error)
        raise
    except KeyboardInterrupt:
        interrupted = _InterruptedError("The run was interrupted at once, without a checkpoint.")
        _record_failure(events, interrupted)
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's own
            known = OutOfMemoryError("The accelerator's memory is not enough for this.")
            _record_failure(events, known)
            raise known from error
        failure = _InternalError(f"{type(error).__name__} in the training process")
        _record_failure(events, failure)
        raise


class _InterruptedError(TrainerError):
    code = "interrupted"
    category = "user"
    retryable = True


class _InternalError(TrainerError):
    code = "internal_error"


def _record_failure(events: EventWriter, error: TrainerError) -> None:
    events.emit("failed", events.last_step, dict(error_facts(error)))
