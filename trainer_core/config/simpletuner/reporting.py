"""Options of trackers and webhooks, which report what a run does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, get_args

from trainer_core.config.plan import Tracker
from trainer_core.config.simpletuner.reading import Options
from trainer_core.config.simpletuner.verdicts import Option, Table

REPORTING: Final = Table()
_MAX_NAME: Final = 128


@dataclass(frozen=True, slots=True)
class _Named:
    """A tracker of SimpleTuner; ``built`` is None where it is not built."""

    name: str
    built: Tracker | None


_NONE: Final = "none"
_TRACKERS: Final[Mapping[str, _Named]] = {
    **{name: _Named(name, name) for name in get_args(Tracker)},
    **{
        name: _Named(name, None)
        for name in (_NONE, "simpletuner", "swanlab", "comet_ml", "custom-tracker", "all")
    },
}
_REPORT_TO: Final[Option[tuple[_Named, ...]]] = REPORTING.choices(
    "report_to",
    _TRACKERS,
    "Trackers, with commas between them. Only tensorboard and wandb are built. The service relays "
    "to wandb with a secret of that kind, and has no tensorboard.",
)
_PROJECT: Final = REPORTING.text("tracker_project_name", "reverie", "Project in the tracker.")
_RUN: Final = REPORTING.text("tracker_run_name", None, "Name of the run in the tracker.")
REPORTING.no_effect("tracker_image_layout", "Trackers get no pictures.")
REPORTING.differs(
    "webhook_config", "nothing is sent; the service has webhooks of its own (/v1/webhooks)."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trackers:
    """The trackers of a run, and the names that they use."""

    report_to: tuple[Tracker, ...]
    project_name: str
    run_name: str


def trackers_of(config: Options) -> Trackers:
    """The trackers of a run. In the service only wandb: it relays metrics from its events."""
    written = config[_REPORT_TO]
    trackers = tuple(each.built for each in written if each.built is not None)
    absent = [each.name for each in written if each.built is None and each.name != _NONE]
    if absent:
        config.differs(_REPORT_TO, f"{', '.join(absent)} is not built; nothing is reported there.")
    if config.source == "http" and "tensorboard" in trackers:
        config.differs(
            _REPORT_TO, "tensorboard is for local runs; the service has its own metrics and events."
        )
        trackers = tuple(each for each in trackers if each != "tensorboard")
    elif not trackers:
        other = " or secrets.wandb" if config.source == "http" else ""
        config.idle(f"without report_to{other}", _RUN, _PROJECT)
    return Trackers(
        report_to=trackers,
        project_name=_checked_name(config, _PROJECT),
        run_name=_checked_name(config, _RUN),
    )


def _checked_name(config: Options, option: Option[str | None]) -> str:
    """A name without characters that a folder's name cannot have; trackers make folders of it."""
    written = (config[option] or "").strip()
    is_odd = written.startswith(".") or any(c in "/\\" or not c.isprintable() for c in written)
    if is_odd or len(written) > _MAX_NAME:
        message = (
            f"{option.name} has to be a plain name of at most {_MAX_NAME} characters, without "
            "slashes and without a dot at its start."
        )
        config.problem(option, "bad_value", message)
    return written
