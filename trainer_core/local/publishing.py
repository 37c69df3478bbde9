"""How a local run is published; its caller, who may speak HTTP, implements it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from trainer_core.config.plan import Plan
from trainer_core.process.events import EventWriter
from trainer_core.progress import Reporter

Publishing = Callable[[Plan, Path, EventWriter, Reporter], AbstractContextManager[None]]
"""Publishes what the plan asks for, from the output folder. It listens to the events for
checkpoints; the result is published when the block ends after the event ``finished``. What goes
wrong is a warning event: it never ends a run."""


@contextmanager
def publish_nothing(
    plan: Plan, output_dir: Path, events: EventWriter, _: Reporter
) -> Iterator[None]:
    """The ``Publishing`` of a caller that has none; says so where the plan asks for one."""
    name = plan.operation.publication.hub_model_id
    if name is not None:
        events.warn(
            "not_published",
            f"push_to_hub: nothing is published to {name} from here; the result stays in "
            f"{output_dir / 'result'}.",
        )
    yield
