"""TensorBoard and Weights & Biases: event listeners that plot numbers by step."""

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from trainer_core.config.plan import Plan
from trainer_core.disk import DiskError
from trainer_core.errors import Category, TrainerError
from trainer_core.in_words import error_in_words
from trainer_core.process.events import Event, EventWriter
from trainer_core.process.scalars import scalars_of

Kind = Literal["tensorboard", "wandb"]

_PACKAGES: Final[dict[Kind, tuple[str, str]]] = {
    "tensorboard": ("tensorboardX", "worker"),
    "wandb": ("wandb", "trackers"),
}
"""Kind → (package, extra of this distribution that installs it)."""
_FLUSH_EVERY_S: Final = 10


class TrackerMissingError(TrainerError):
    """The package of a tracker is not installed."""

    code = "tracker_missing"
    category: Category = Category.USER


class Tracker(Protocol):
    """Plots numbers."""

    def log(self, scalars: dict[str, float], step: int) -> None:
        """Plot the finite numbers of one step; the step never decreases within a process."""

    def close(self) -> None:
        """Flush and close."""


def check_trackers(plan: Plan) -> None:
    """Raise TrackerMissingError if a tracker in ``report_to`` is not installed."""
    for kind in plan.operation.report_to:
        package, extra = _PACKAGES[kind]
        if find_spec(package) is None:
            raise TrackerMissingError(
                f"report_to {kind} needs the package {package}, which is not installed: "
                f"pip install 'reverie[{extra}]', or remove {kind} from report_to"
            )


@contextmanager
def trackers(
    plan: Plan, output_dir: Path, events: EventWriter, *, from_step: int
) -> Iterator[None]:
    """Plot events with the trackers in ``report_to``. A tracker that fails does not stop training.

    Args:
        plan: plan of the run.
        output_dir: TensorBoard writes to ``logs/<run name>`` in it, W&B to ``logs``.
        events: the trackers listen to these. A tracker that fails emits one warning event.
        from_step: the step that the run resumes from. Later points, plotted by an earlier
            process, are superseded.
    """
    open_ones: list[tuple[str, Tracker]] = []
    for kind in plan.operation.report_to:
        made = _guarded(kind, partial(_open, kind, plan, output_dir, from_step), events)
        if made is not None:
            open_ones.append((kind, made))
            events.listen(kind, _listener(made))
    try:
        yield
    finally:
        for name, tracker in open_ones:
            # On a full disk even the warning fails; it must not replace the run's own error.
            with suppress(DiskError):
                _guarded(name, tracker.close, events)


def _listener(tracker: Tracker) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if scalars := scalars_of(event.name, event.data):
            tracker.log(scalars, event.step)

    return listen


def _guarded(name: str, act: Callable[[], Any], events: EventWriter) -> Any:
    try:
        return act()
    except Exception as error:  # noqa: BLE001 - a tracker must not end the training
        message = f"report_to {name} failed: {error_in_words(error)}"
        events.emit("warning", events.last_step, {"code": "tracker_failed", "message": message})
        return None


def _open(kind: Kind, plan: Plan, output_dir: Path, from_step: int) -> Tracker:
    name = plan.operation.tracker_run_name or output_dir.resolve().name
    if kind == "tensorboard":
        return _TensorBoard(output_dir / "logs" / _as_folder(name), from_step)
    return _Wandb(plan, name, output_dir / "logs", from_step)


def _as_folder(name: str) -> str:
    """A run's name made safe as the name of one folder."""
    return re.sub(r"[^\w. -]+", "_", name).strip(". ") or "run"


class _TensorBoard:
    """Writes an event file for TensorBoard, in the thread of the training.

    The thread of ``SummaryWriter`` ends with a traceback where the disk is full, and the training
    would then wait for it without end.
    """

    def __init__(self, folder: Path, from_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # noqa: PLC0415 - half a second
        from tensorboardX.proto.event_pb2 import SessionLog  # noqa: PLC0415 - the same

        folder.mkdir(parents=True, exist_ok=True)
        # The step is in the name: otherwise two writers of one second would share a file.
        self._file = EventsWriter(str(folder / "events"), f".{from_step}")
        self._flushed_s = time.monotonic()
        if from_step:
            # An earlier process may have plotted later points before it died.
            self._write(from_step + 1, session_log=SessionLog(status=SessionLog.START))

    def log(self, scalars: dict[str, float], step: int) -> None:
        from tensorboardX.summary import scalar  # noqa: PLC0415 - half a second

        for name, value in scalars.items():
            self._write(step, summary=scalar(name, value))
        if time.monotonic() - self._flushed_s >= _FLUSH_EVERY_S:
            self._file.flush()
            self._flushed_s = time.monotonic()

    def close(self) -> None:
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event as Plotted  # noqa: PLC0415 - half a second

        self._file.write_event(Plotted(wall_time=time.time(), step=step, **content))


class _Wandb:
    """One run at Weights & Biases; a resumed run continues it."""

    def __init__(self, plan: Plan, name: str, folder: Path, from_step: int) -> None:
        import wandb  # noqa: PLC0415 - an extra of its own

        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=plan.operation.tracker_project_name,
            name=name,
            id=_wandb_id(folder / "wandb-id", is_resumed=from_step > 0),
            resume="allow",
            dir=str(folder),
            config=json.loads(plan.identity.model_dump_json()),
            settings=wandb.Settings(console="off", silent=True),
        )
        # After a resume, steps that a killed process plotted are logged again. wandb's own step
        # must not decrease, so the x axis is a number that we log.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, scalars: dict[str, float], step: int) -> None:
        self._run.log({**scalars, "step": step})

    def close(self) -> None:
        self._run.finish()


def _wandb_id(note: Path, *, is_resumed: bool) -> str:
    if is_resumed and note.is_file():
        return note.read_text(encoding="ascii").strip()
    id_ = secrets.token_hex(8)
    note.write_text(f"{id_}\n", encoding="ascii")
    return id_
