"""`reverie train` publishes to the Hub what the files ask for, and no failure of it ends a run.

The training is replaced: it writes checkpoints and a result as the engine does, and their events.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from services.cli.hub_publishing import publishing_to_hub
from tests.support.finished_runs import write_result
from tests.support.hub import HubServer
from tests.support.waiting import wait_until
from tests.unit.config_examples import import_small
from trainer_core.checkpoint.folders import keep_newest
from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.write import CheckpointFacts, TrainedTensors, write_checkpoint
from trainer_core.config.plan import LokrAdapter, Plan, Shown
from trainer_core.export.origin import ADAPTER_NAME
from trainer_core.local.contact_sheet import write_contact_sheet
from trainer_core.local.publishing import publish_nothing
from trainer_core.painting.contact_sheet import SHEET
from trainer_core.process.events import Event, EventWriter
from trainer_core.progress import SilentReporter
from trainer_core.validation.pictures import pictures_of, write_picture

REPO = "tester/cats"
PUSH = {
    "push_to_hub": "true",
    "hub_model_id": "cats",  # of the token's user
    "push_checkpoints_to_hub": "true",
    "checkpoints_total_limit": 1,
}


@dataclass
class Said(SilentReporter):
    """What the user is told."""

    lines: list[str] = field(default_factory=list)
    on_retry: Callable[[], None] = lambda: None

    def log(self, text: str) -> None:
        self.lines.append(text)
        if "tried again" in text:
            self.on_retry()

    def note(self, event: Event) -> None:
        if event.name == "warning":
            self.lines.append(f"warning: {event.data['message']}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A local run in its output folder."""

    output: Path
    plan: Plan
    events: EventWriter
    said: Said

    def save(self, step: int) -> None:
        """Write a checkpoint and delete older ones, as the engine does."""
        adapter = self.plan.identity.adapter
        assert isinstance(adapter, LokrAdapter)
        names = [f"{module.path}.{name}" for module in adapter.modules for name in ("w1", "w2")]
        identity = CheckpointIdentity(
            identity_digest="1" * 64,
            identity={},
            data_digest="2" * 64,
            base_digest="3" * 64,
            matmul="auto",
        )
        written = write_checkpoint(
            self.output / "checkpoints",
            CheckpointFacts(step=step, cursor=step, run=identity, scalars={}),
            TrainedTensors(
                parameters={name: torch.full((2, 3), float(step)) for name in names},
                optimizer_state={},
                ema={},
            ),
        )
        keep_newest(self.output / "checkpoints", self.plan.operation.checkpoints_total_limit)
        path = written.path.relative_to(self.output).as_posix()
        self.events.emit("checkpoint", step, {"path": path})

    def end(self) -> None:
        write_result(self.output / "result")
        self.events.emit("finished", 30, {})

    def has_warned(self, words: str) -> bool:
        return any(line.startswith("warning: ") and words in line for line in self.said.lines)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    writers: list[EventWriter] = []

    def make(**changes: Any) -> Run:
        output, said = tmp_path / "out", Said()
        events = EventWriter(output / "events.jsonl")
        writers.append(events)
        events.listen("the test", said.note)
        plan = import_small({**PUSH, **changes}).plan
        return Run(output=output, plan=plan, events=events, said=said)

    yield make
    for each in writers:
        each.__exit__(None, None, None)


@pytest.fixture
def hub(hub_server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HubServer:
    monkeypatch.setenv("HF_TOKEN", hub_server.token)
    monkeypatch.setenv("HF_ENDPOINT", hub_server.url)
    return hub_server


def publishing(run: Run) -> Any:
    return publishing_to_hub(run.plan, run.output, run.events, run.said, pause_s=0.01)


@contextmanager
def held_after_one_checkpoint(run: Run, hub: HubServer) -> Iterator[None]:
    """Publishing, where the Hub holds the upload of step 10 until the block has ended."""
    hub.held_below = "/api/models"
    with publishing(run):
        run.save(10)
        wait_until(hub.has_held.is_set, what="the upload to be held")
        yield
        hub.release()


def summaries(hub: HubServer) -> list[str]:
    return [commit.summary for commit in hub.repos[REPO].commits] if REPO in hub.repos else []


def test_checkpoints_and_then_the_result_are_published(
    start: Callable[..., Run], hub: HubServer
) -> None:
    run = start()
    with publishing(run):
        run.save(10)
        wait_until(lambda: len(summaries(hub)) == 1, what="the first checkpoint to be published")
        run.save(20)
        wait_until(lambda: len(summaries(hub)) == 2, what="the second one")
        run.end()

    files = hub.repos[REPO].files
    assert summaries(hub) == ["Checkpoint at step 10", "Checkpoint at step 20", "Result"]
    assert files[f"checkpoint-10/{ADAPTER_NAME}"] != files[f"checkpoint-20/{ADAPTER_NAME}"]
    assert files[ADAPTER_NAME] == (run.output / "result" / ADAPTER_NAME).read_bytes()
    assert hub.repos[REPO].private
    assert [line.split() for line in run.said.lines] == [
        ["published", f"{hub.url}/{REPO},", "step", "10"],
        ["published", f"{hub.url}/{REPO},", "step", "20"],
        ["published", f"{hub.url}/{REPO}"],
    ]
    assert not (run.output / ".publishing").exists()


def test_pictures_of_the_training_go_with_the_result(
    start: Callable[..., Run], hub: HubServer
) -> None:
    """Not those that a run before has left in the same folder."""
    run = start(validation_step_interval=5, validation_prompt="a cat", validation_resolution="64")
    pictures, digest = run.plan.operation.pictures, run.plan.identity_digest()
    assert pictures is not None
    made: tuple[tuple[int, Shown, str], ...] = (
        (0, "base", digest),
        (5, "trained", digest),
        (10, "trained", digest),
        (15, "trained", "earlier"),
    )
    for step, shown, plan in made:
        (picture,) = pictures_of(pictures, step, shown)
        image = Image.new("RGB", (64, 64), (step, 0, 0))
        write_picture(run.output / picture.path, image, {"plan_digest": plan})
    write_contact_sheet(run.plan, run.output)
    with publishing(run):
        run.end()

    files = hub.repos[REPO].files
    samples = {name for name in files if name.startswith("samples/")}
    newest = "samples/step-000010/validation-64x64-42.png"
    assert samples == {"samples/0.png", "samples/contact-sheet.png", newest}
    assert files[newest] == (run.output / newest).read_bytes()
    assert files["samples/contact-sheet.png"] == (run.output / SHEET).read_bytes()
    assert b"| `validation` | `a cat` |" in files["README.md"]


def test_a_slow_hub_gets_the_newest_checkpoint_although_others_are_deleted(
    start: Callable[..., Run], hub: HubServer
) -> None:
    run = start()
    with held_after_one_checkpoint(run, hub):
        run.save(20)
        run.save(30)
        assert [path.name for path in (run.output / "checkpoints").iterdir()] == ["step-00000030"]

    # The run was stopped: what its last checkpoint holds is published before the command ends.
    assert summaries(hub) == ["Checkpoint at step 10", "Checkpoint at step 30"]
    assert not run.has_warned("")


def test_a_checkpoint_that_waits_gives_way_to_the_result(
    start: Callable[..., Run], hub: HubServer
) -> None:
    run = start()
    with held_after_one_checkpoint(run, hub):
        run.save(20)
        run.end()

    assert summaries(hub) == ["Checkpoint at step 10", "Result"]


def test_a_hub_that_is_away_ends_no_run_and_the_way_on_is_told(
    start: Callable[..., Run], hub: HubServer
) -> None:
    run = start()
    hub.failing_with = 503
    with publishing(run):
        run.save(10)
        run.end()

    repo = run.output / "repository"
    assert run.has_warned(f"It is ready in {repo}; publish it by: hf upload cats {repo}")
    assert "LoKr adapter of" in (repo / "README.md").read_text()
    assert (repo / ADAPTER_NAME).is_file()


def test_a_result_is_tried_again(start: Callable[..., Run], hub: HubServer) -> None:
    run = start(push_checkpoints_to_hub=False)
    hub.failing_with = 503

    def mend() -> None:
        hub.failing_with = None

    run.said.on_retry = mend
    with publishing(run):
        run.save(10)
        run.end()

    assert summaries(hub) == ["Result"]
    assert not run.has_warned("")


def test_a_refused_token_is_told_in_words(start: Callable[..., Run], hub: HubServer) -> None:
    run = start()
    hub.token = "hf_another"
    with publishing(run):
        run.save(10)
        run.end()

    assert run.has_warned("The result is not on the Hub: The Hub does not accept your token.")


def test_without_a_token_the_run_says_so_and_trains(
    start: Callable[..., Run],
    hub_server: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # The library reads the place of its token once, when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    run = start()
    with publishing(run):
        run.save(10)
        run.end()

    assert run.has_warned("Set HF_TOKEN or run `hf auth login`")
    assert hub_server.requests == []


def test_a_run_that_fails_publishes_nothing_more(start: Callable[..., Run], hub: HubServer) -> None:
    run = start(push_checkpoints_to_hub=False)

    def fail() -> None:
        with publishing(run):
            run.save(10)
            run.plan.model_validate({})

    with pytest.raises(ValidationError):
        fail()

    assert hub.requests == []


def test_a_caller_without_a_hub_says_so(start: Callable[..., Run]) -> None:
    run = start()
    with publish_nothing(run.plan, run.output, run.events, run.said):
        pass

    assert run.has_warned("nothing is published to cats from here")
    quiet = import_small({}).plan
    lines = list(run.said.lines)
    with publish_nothing(quiet, run.output, run.events, run.said):
        pass
    assert run.said.lines == lines
