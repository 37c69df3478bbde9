"""The display, the control file and the outcome event of a local run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from trainer_core.disk import DiskError, disk_error
from trainer_core.errors import OutOfMemoryError
from trainer_core.process.control import Control, ControlRequest, StopRequestedError
from trainer_core.process.events import Event, EventWriter
from trainer_core.process.failure import failure_as_json, failure_of


class View(Protocol):
    """The display of a run, such as a terminal."""

    def log(self, text: str) -> None:
        """Show one line."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` units of the preparation's ``stage`` are done."""

    def event(self, event: Event) -> None:
        """Show one line of the event file, as it is written."""


class ControlledView:
    """The ``Reporter`` of a local run: shows progress on a view and obeys the control file."""

    def __init__(self, view: View, control: Control) -> None:
        self._view, self._control = view, control

    def log(self, text: str) -> None:
        self._view.log(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        self._view.progress(stage, done, total)

    def check_control(self) -> None:
        """Wait while a pause is requested; raise StopRequestedError if a stop is requested."""
        while self._control.requested() is ControlRequest.PAUSE:
            self._control.wait()
        self._control.check_stop()


def open_control(file: Path | None, output_dir: Path) -> Control:
    """The control of a run. ``file`` None: ``control`` in the output folder, deleted first.

    Otherwise a request left by an earlier run would stop this one.
    """
    if file is not None:
        return Control(file)
    own = output_dir / "control"
    own.unlink(missing_ok=True)
    return Control(own)


@contextlib.contextmanager
def recorded_outcome(events: EventWriter, control: Control, output_dir: Path) -> Iterator[None]:
    """Write the error that ends the run as its last event. A requested stop is not raised again.

    Raises KeyboardInterrupt for any error of a run that was interrupted: libraries raise others for
    it, such as when a model is being loaded. Raises DiskError for any error of a disk; the last
    event may then be missing.
    """
    try:
        try:
            yield
        except Exception as error:
            if control.was_interrupted and not isinstance(error, StopRequestedError):
                raise KeyboardInterrupt from error
            raise
    except StopRequestedError:
        events.emit("stopped", events.last_step, {})
    except (Exception, KeyboardInterrupt) as error:
        disk = disk_error(error, output_dir)
        failure = failure_of(disk or error)
        if disk is not None:
            with contextlib.suppress(DiskError):
                fields = {**failure_as_json(failure), "message": disk.message}
                events.emit("failed", events.last_step, fields)
            raise disk from error
        events.emit("failed", events.last_step, failure_as_json(failure))
        if failure.code == OutOfMemoryError.code and not isinstance(error, OutOfMemoryError):
            raise OutOfMemoryError(
                failure.message
            ) from error  # torch's own error, with a readable message
        raise
