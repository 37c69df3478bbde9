"""Runs into one output folder: started, stopped, resumed, refused, set aside."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import pytest
import torch

from tests.support import damage
from tests.support.jobs import EXAMPLES, demo_plan
from trainer_core.base_models.describe import describe_base, read_base_model
from trainer_core.base_models.obtain import FoundBase, find_base
from trainer_core.checkpoint.identity import checkpoint_identity
from trainer_core.checkpoint.layout import MANIFEST_NAME, STATE_NAME
from trainer_core.checkpoint.write import (
    CheckpointFacts,
    TrainedTensors,
    write_checkpoint,
    write_result,
)
from trainer_core.config.plan import Plan, StartAdapter
from trainer_core.errors import BaseModelError, CheckpointError, NoWholeCheckpointError
from trainer_core.local.attempt import Attempt
from trainer_core.process.control import Control
from trainer_core.process.events import EventWriter
from trainer_core.process.job import Job, read_job
from trainer_core.progress import SilentReporter

LAST = 4
FIRST = "astronaut_portrait.jpg"


@dataclass
class Logged(SilentReporter):
    """Keeps the lines."""

    lines: list[str]

    def log(self, text: str) -> None:
        self.lines.append(text)


@dataclass
class Runs:
    """Runs into one folder. Training is replaced: it only writes a checkpoint at each step."""

    plan: Plan
    base: FoundBase
    output: Path
    data: Mapping[str, Path]
    started_at: list[int] = field(default_factory=list[int])
    stop_at: int = LAST
    last: int | None = LAST
    epochs: int | None = None
    order: Literal[1, 2] = 2
    """1: as a version started it that had the order by names only."""
    probability: float = 1.0
    logged: list[str] = field(default_factory=list[str])

    def start(
        self,
        request: str,
        *,
        stop_at: int = LAST,
        seed: int = 42,
        drawn: bool = False,
        start_from: Path | None = None,
    ) -> Path | None:
        """As ``reverie train``; ``drawn`` says that ``seed`` was drawn at random this time."""
        self.stop_at = stop_at
        digest = sha256(str(start_from).encode()).hexdigest()
        start = None if start_from is None else StartAdapter(sha256=digest)
        identity = self.plan.identity.model_copy(
            update={
                "seed": seed,
                "max_train_steps": self.last,
                "num_train_epochs": self.epochs,
                "start_adapter": start,
                "accumulation_steps": 1000,  # an epoch is a part of a step
                "sample_order": self.order,
                "backends": tuple(
                    each.model_copy(update={"probability": self.probability})
                    for each in self.plan.identity.backends
                ),
            }
        )
        operation = self.plan.operation.model_copy(
            update={"resume_from": request, "report_to": (), "checkpoints_total_limit": 9}
        )
        plan = self.plan.model_copy(update={"identity": identity, "operation": operation})
        with EventWriter(self.output / "events.jsonl") as events:
            attempt = Attempt(
                env={},
                folders=(self.output.parent,),
                output_dir=self.output,
                cache_dir=self.output / "cache",
                node_cache=None,
                control=Control(None),
                events=events,
                reporter=Logged(self.logged),
                start_from=start_from,
                seed_is_drawn=drawn,
            )
            return attempt.train(plan, self.base, self.data)

    def train(self, job: Job) -> bool:
        start = int(job.resume_from.rpartition("-")[2]) if job.resume_from else 0
        self.started_at.append(start)
        identity = checkpoint_identity(job)
        for step in range(start + 1, self.stop_at + 1):
            facts = CheckpointFacts(
                step=step,
                cursor=step,
                run=identity,
                scalars={},
            )
            tensors = {"a": torch.tensor([float(step)])}
            trained = TrainedTensors(parameters=tensors, optimizer_state={}, ema={})
            write_checkpoint(job.checkpoints_dir, facts, trained)
        if self.stop_at < LAST:
            return False
        write_result(job.result_dir, LAST, lambda folder: None)
        return True

    def warnings(self) -> list[tuple[str, str]]:
        """Code and message of each warning event, but for those about the pictures."""
        lines = (self.output / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        found = [(e["code"], e["message"]) for e in events if e["event"] == "warning"]
        return [(code, message) for code, message in found if code != "data"]

    def stored_files(self) -> list[str]:
        """Files of the output folder, but for events and cache, with their times of change."""
        kept = {"checkpoints", "result", "job.json", "course.json"}
        found = [
            path
            for path in self.output.rglob("*")
            if path.relative_to(self.output).parts[0] in kept
            or path.relative_to(self.output).parts[0].startswith("set-aside")
        ]
        return sorted(
            f"{path.relative_to(self.output)} {path.stat().st_mtime_ns}"
            for path in found
            if path.is_file()
        )

    def steps(self) -> list[int]:
        names = (self.output / "checkpoints").iterdir()
        return sorted(int(path.name.removeprefix("step-")) for path in names)

    def aside(self) -> list[str]:
        return sorted(path.name for path in self.output.glob("set-aside-*/*"))


@pytest.fixture
def runs(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    base = read_base_model(tiny_folder)
    photos = {"photos": EXAMPLES / "photos" / "train", "held-out": EXAMPLES / "photos" / "held_out"}
    found = FoundBase(
        name=base.name,
        transformer_config=base.transformer_config,
        obtain=lambda reporter, fourth: base,
    )
    (tmp_path / "out").mkdir()
    runs = Runs(demo_plan(base, edge_px=64), found, tmp_path / "out", photos)
    monkeypatch.setattr(Attempt, "_fill_cache", lambda *_: None)
    monkeypatch.setattr(Attempt, "_run_training", lambda _, job: runs.train(job))
    return runs


def step(number: int) -> str:
    return f"step-{number:08d}"


@pytest.mark.parametrize("why", ["other plan", "damage", "beyond the end"])
def test_a_refusal_changes_nothing(runs: Runs, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.start("latest")
    seed, request = 42, step(1)
    match why:
        case "other plan":
            seed = 7
        case "damage":
            state = runs.output / "checkpoints" / step(1) / STATE_NAME
            state.write_bytes(state.read_bytes()[:-1] + b"x")
        case _:
            request = step(4)
            runs.last = 3
    before = runs.stored_files()

    with pytest.raises(CheckpointError):
        runs.start(request, seed=seed)

    assert runs.stored_files() == before
    assert runs.started_at == [0]


def test_a_run_goes_on_in_epochs_if_these_reach_further(runs: Runs) -> None:
    runs.start("latest", stop_at=2)
    runs.last, runs.epochs = None, 1

    with pytest.raises(CheckpointError, match="is at step 2, the plan ends at 1"):
        runs.start("latest")

    runs.epochs = 400
    runs.start("latest")
    assert runs.started_at == [0, 2]


def truncated(folder: Path) -> None:
    damage.truncate(folder / STATE_NAME)


def another_cursor(folder: Path) -> None:
    """One digit is another one; it is still a manifest."""
    manifest = folder / MANIFEST_NAME
    text = manifest.read_text()
    assert '"cursor": 3' in text
    manifest.write_text(text.replace('"cursor": 3', '"cursor": 7'))


def another_step(folder: Path) -> None:
    """A copy of another checkpoint, under this one's name."""
    shutil.copytree(folder.with_name(step(2)), folder, dirs_exist_ok=True)


DAMAGES: Final[Mapping[str, tuple[Callable[[Path], object], str]]] = {
    "truncated": (truncated, f"{STATE_NAME} has 38 bytes, and 76 in its manifest"),
    "flipped": (
        lambda folder: damage.flip_last(folder / STATE_NAME),
        f"{STATE_NAME} is damaged: its SHA-256 is not the one in its manifest",
    ),
    "gone": (lambda folder: damage.remove(folder / STATE_NAME), f"{STATE_NAME} is missing"),
    "manifest cut": (
        lambda folder: damage.truncate(folder / MANIFEST_NAME),
        f"{MANIFEST_NAME} is damaged, or of a newer version",
    ),
    "manifest changed": (another_cursor, f"{MANIFEST_NAME} is damaged, or of a newer version"),
    "manifest gone": (
        lambda folder: damage.remove(folder / MANIFEST_NAME),
        f"{MANIFEST_NAME} is missing",
    ),
    "another step's": (another_step, f"{MANIFEST_NAME} is the one of step 2"),
}
"""What happened to a checkpoint's folder → what does it, and what is said of it."""


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_newest_whole_one_is_used(
    runs: Runs, how: str
) -> None:
    runs.start("latest", stop_at=3)
    do, words = DAMAGES[how]
    do(runs.output / "checkpoints" / step(3))

    runs.start("latest")

    assert runs.started_at == [0, 2]
    assert runs.warnings() == [
        ("checkpoint_corrupt", f"{step(3)}/{words}. The run goes on from step 2.")
    ]
    assert runs.steps() == [1, 2, 3, 4]
    assert runs.aside() == ["job.json", step(3)]
    runs.start("latest")
    assert len(runs.warnings()) == 1


def test_of_several_damaged_checkpoints_each_is_named(runs: Runs) -> None:
    runs.start("latest", stop_at=3)
    damage.flip_last(runs.output / "checkpoints" / step(3) / STATE_NAME)
    damage.remove(runs.output / "checkpoints" / step(2) / MANIFEST_NAME)

    runs.start("latest")

    assert runs.started_at == [0, 1]
    assert [message.partition("/")[0] for _, message in runs.warnings()] == [step(2), step(3)]
    assert runs.aside() == ["job.json", step(2), step(3)]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_run_without_a_whole_checkpoint_is_refused_and_nothing_is_changed(
    runs: Runs, how: str
) -> None:
    runs.start("latest", stop_at=3)
    do, words = DAMAGES[how]
    do(runs.output / "checkpoints" / step(3))
    for number in (1, 2):
        damage.flip_last(runs.output / "checkpoints" / step(number) / STATE_NAME)
    before = runs.stored_files()

    with pytest.raises(NoWholeCheckpointError) as caught:
        runs.start("latest")

    assert not caught.value.retryable
    message = caught.value.message
    assert message.startswith(f"none of the checkpoints in {runs.output}/checkpoints is whole: ")
    assert f"{step(3)}/{words}" in message
    assert message.endswith("or start at step 0 with --set resume_from_checkpoint=")
    assert runs.stored_files() == before
    assert runs.started_at == [0]

    # The way on that the message names.
    runs.start("", stop_at=1)
    runs.start("")
    assert runs.started_at == [0, 0, 1]


@pytest.fixture
def own_photos(runs: Runs, tmp_path: Path) -> Path:
    """Few photographs, of which the runs' are copies that a test may change."""
    folders: dict[str, Path] = {}
    for backend, folder in runs.data.items():
        folders[backend] = tmp_path / "own" / backend
        folders[backend].mkdir(parents=True)
        for picture in sorted(folder.glob("*.jpg"))[:2]:
            for file in (picture, picture.with_suffix(".txt")):
                shutil.copy(file, folders[backend])
    runs.data = folders
    return folders["photos"]


CHANGES: Final[Mapping[str, tuple[Callable[[Path], object], str]]] = {
    "a caption": (
        lambda photos: (photos / "astronaut_portrait.txt").write_text("a cat"),
        "photos/astronaut_portrait.jpg has another caption",
    ),
    "a picture": (
        lambda photos: shutil.copy(EXAMPLES / "photos/train/grass.jpg", photos / FIRST),
        "photos/astronaut_portrait.jpg is another picture",
    ),
    "a picture less": (
        lambda photos: (photos / FIRST).unlink(),
        "photos/astronaut_portrait.jpg is missing",
    ),
    "a picture more": (
        lambda photos: [
            shutil.copy(EXAMPLES / f"photos/train/grass{suffix}", photos)
            for suffix in (".jpg", ".txt")
        ],
        "photos/grass.jpg is new",
    ),
}
"""What changed in the folder of the pictures → what does it, and what the refusal says."""


@pytest.mark.parametrize("what", CHANGES)
def test_a_refused_resume_names_the_picture_or_caption_that_changed(
    runs: Runs, own_photos: Path, what: str
) -> None:
    runs.start("latest", stop_at=1)
    do, words = CHANGES[what]
    do(own_photos)

    for request in ("latest", str(runs.output / "checkpoints" / step(1))):
        with pytest.raises(CheckpointError) as caught:
            runs.start(request)
        assert caught.value.message == f"{step(1)} cannot be resumed here: {words}"
    assert runs.started_at == [0]


def test_a_checkpoint_that_was_set_aside_still_knows_its_pictures(
    runs: Runs, own_photos: Path
) -> None:
    runs.start("latest", stop_at=1)
    (own_photos / FIRST).with_suffix(".txt").write_text("a cat")
    runs.start("", stop_at=1)

    with pytest.raises(CheckpointError, match=r"portrait\.jpg has another caption"):
        runs.start(str(next(runs.output.glob("set-aside-*")) / step(1)))


OLDER_ORDER: Final = (
    "the run goes on in the order of samples that it began with, by the names of the files; new "
    "runs go by the content of the files"
)


@pytest.mark.parametrize("request_", ["latest", ""])
def test_a_run_of_before_goes_on_in_its_order_of_samples(runs: Runs, request_: str) -> None:
    runs.order = 1
    runs.start(request_, stop_at=2)
    assert (runs.output / "job.json").exists()
    runs.order, runs.logged[:] = 2, []

    runs.start(request_, stop_at=3)
    runs.start(request_)

    assert runs.started_at == [0, 2, 3]
    assert runs.logged.count(OLDER_ORDER) == 2
    assert runs.aside() == []
    assert read_job(runs.output / "job.json").plan.identity.sample_order == 1


def test_a_run_from_a_checkpoint_of_before_has_its_order(runs: Runs) -> None:
    runs.order = 1
    runs.start("latest", stop_at=2)
    runs.order = 2

    for stop_at in (3, LAST):
        runs.start(step(1), stop_at=stop_at)

    assert runs.started_at == [0, 1, 3]
    assert runs.logged.count(OLDER_ORDER) == 3  # and of the first run
    # The next run from the start is a new one.
    runs.start("", stop_at=1)
    assert read_job(runs.output / "job.json").plan.identity.sample_order == 2


def test_the_order_of_before_mixes_nothing(runs: Runs) -> None:
    """It is not taken on where the options ask for more; the refusal names these."""
    runs.order = 1
    runs.start("latest", stop_at=1)
    runs.order, runs.probability = 2, 0.5

    with pytest.raises(CheckpointError) as caught:
        runs.start("latest")

    assert caught.value.message == (
        f"{step(1)} cannot be resumed here: data backend photos, probability: 0.5 here, absent in "
        "the checkpoint; data backend held-out, probability: 0.5 here, absent in the checkpoint"
    )


@pytest.mark.parametrize("order", [1, 2])
def test_a_renamed_picture_changes_nothing_but_in_the_order_by_names(
    runs: Runs, own_photos: Path, order: Literal[1, 2]
) -> None:
    runs.order = order
    runs.start("latest", stop_at=1)
    for suffix in (".jpg", ".txt"):
        (own_photos / FIRST).with_suffix(suffix).rename(own_photos / f"zebra{suffix}")

    if order == 2:
        runs.start("latest")
        assert runs.started_at == [0, 1]
        return
    with pytest.raises(CheckpointError) as caught:
        runs.start("latest")
    assert caught.value.message == (
        f"{step(1)} cannot be resumed here: photos/{FIRST} is missing; photos/zebra.jpg is new"
    )


def test_a_refusal_does_not_name_what_was_only_renamed(runs: Runs, own_photos: Path) -> None:
    runs.start("latest", stop_at=1)
    other = next(path for path in own_photos.glob("*.jpg") if path.name != FIRST)
    other.with_suffix(".txt").write_text("a cat")
    for suffix in (".jpg", ".txt"):
        (own_photos / FIRST).with_suffix(suffix).rename(own_photos / f"zebra{suffix}")

    with pytest.raises(CheckpointError) as caught:
        runs.start("latest")

    words = f"photos/{other.name} has another caption"
    assert caught.value.message == f"{step(1)} cannot be resumed here: {words}"


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_refused_resume_names_the_weights_that_changed(
    runs: Runs, own_photos: Path, tmp_path: Path, tiny_folder: Path, is_listed: bool
) -> None:
    runs.start("latest", stop_at=1)
    folder = tmp_path / "models" / "changed"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("reverie*"))
    damage.flip_last(folder / "vae" / "diffusion_pytorch_model.safetensors")
    if is_listed:
        describe_base(folder, "hidream-tiny")
        env = {"REVERIE_MODELS_DIR": str(folder.parent)}
        runs.base = find_base("hidream-tiny", env=env, folders=())
    else:
        env = {"REVERIE_HOME": str(tmp_path)}
        runs.base = find_base(str(folder), env=env, folders=(tmp_path,))

    with pytest.raises(CheckpointError) as caught:
        runs.start("latest")

    words = "the base model: vae/diffusion_pytorch_model.safetensors has another content"
    assert caught.value.message == f"{step(1)} cannot be resumed here: {words}"


@pytest.mark.parametrize("request_", ["latest", ""])
@pytest.mark.parametrize("is_listed", [True, False])
def test_a_base_model_that_was_damaged_ends_a_start_and_a_resume(
    runs: Runs, tmp_path: Path, tiny_folder: Path, is_listed: bool, request_: str
) -> None:
    folder = tmp_path / "models" / "mine"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("reverie*"))
    env = {"REVERIE_HOME": str(tmp_path)}
    if is_listed:
        describe_base(folder, "mine")
        env["REVERIE_MODELS_DIR"] = str(folder.parent)
    runs.base = find_base("mine" if is_listed else str(folder), env=env, folders=(tmp_path,))
    runs.start(request_, stop_at=1)
    before = runs.stored_files()
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"

    damage.flip_last(weights)

    with pytest.raises(BaseModelError, match=f"^{weights} is damaged: "):
        runs.start(request_)
    assert runs.stored_files() == before
    damage.flip_last(weights)  # put back
    runs.start(request_)
    assert runs.started_at == [0, 1]


@pytest.mark.parametrize("path", ["through a link", "with dots"])
def test_an_own_checkpoint_is_recognised_by_any_path(runs: Runs, path: str) -> None:
    runs.start("latest")
    link = runs.output.with_name("link")
    link.symlink_to(runs.output)
    place = link if path == "through a link" else runs.output / ".." / "out"

    runs.start(str(place / "checkpoints" / step(2)), stop_at=3)

    assert runs.started_at == [0, 2]
    assert runs.steps() == [1, 2, 3]
    assert runs.aside() == ["job.json", "result", step(3), step(4)]


def test_a_run_started_at_step_0_is_resumed_until_it_has_finished(runs: Runs) -> None:
    runs.start("latest")

    for stop_at in (2, 3, LAST):
        runs.start("", stop_at=stop_at)
    assert runs.started_at == [0, 0, 2, 3]
    assert runs.aside() == ["job.json", "result", *map(step, (1, 2, 3, 4))]

    runs.start("", stop_at=1)  # that one had finished: a new one starts
    assert runs.started_at[-1] == 0


def test_a_run_started_from_a_checkpoint_is_resumed_even_when_that_is_gone(runs: Runs) -> None:
    runs.start("latest")
    runs.start(step(2), stop_at=3)
    (runs.output / "checkpoints" / step(2)).rename(runs.output / "gone")

    assert runs.start(step(2)) == runs.output / "result"

    assert runs.started_at == [0, 2, 3]


def test_another_plan_with_the_same_request_starts_anew(runs: Runs) -> None:
    runs.start("", stop_at=2)
    runs.start("", stop_at=3, seed=7)

    assert runs.started_at == [0, 0]
    assert runs.aside() == ["job.json", step(1), step(2)]


def test_a_drawn_seed_is_the_one_of_the_checkpoint(runs: Runs) -> None:
    runs.start("latest", stop_at=1, seed=1111, drawn=True)
    with pytest.raises(CheckpointError, match="seed: 7 here, 1111"):
        runs.start("latest", seed=7)

    runs.start("latest", stop_at=2, seed=2222, drawn=True)

    assert read_job(runs.output / "job.json").plan.identity.seed == 1111
    checkpoint = str(runs.output / "checkpoints" / step(2))
    runs.output = runs.output.with_name("another")
    runs.output.mkdir()
    runs.start(checkpoint, stop_at=3, seed=3333, drawn=True)
    assert read_job(runs.output / "job.json").plan.identity.seed == 1111
    assert runs.started_at == [0, 1, 2]


def test_another_drawn_seed_does_not_keep_a_run_from_being_resumed(runs: Runs) -> None:
    runs.start("", stop_at=1, seed=1111, drawn=True)
    runs.start("", stop_at=2, seed=2222, drawn=True)

    assert runs.started_at == [0, 1]


def test_a_run_from_an_adapter_is_resumed_and_is_another_one_than_without_it(
    runs: Runs, tmp_path: Path
) -> None:
    runs.start("latest", stop_at=1, start_from=tmp_path / "old.safetensors")
    job = read_job(runs.output / "job.json")
    assert job.start_from == str(tmp_path / "old.safetensors")
    runs.start("latest", stop_at=2, start_from=tmp_path / "old.safetensors")
    assert runs.started_at == [0, 1]
    ways = (
        f"to go on with it, set init_lora to {tmp_path / 'old.safetensors'}; otherwise give this "
        "one another output_dir (or --output), or set resume_from_checkpoint to nothing"
    )
    with pytest.raises(CheckpointError, match="init_lora: absent here") as caught:
        runs.start("latest")
    assert f"started from init_lora, which this one does not name: {ways}" in str(caught.value)
    with pytest.raises(CheckpointError, match="started from another init_lora: ") as caught:
        runs.start("latest", start_from=tmp_path / "new.safetensors")
    assert ways in str(caught.value)

    runs.output = runs.output.with_name("another")
    runs.output.mkdir()
    runs.start("latest", stop_at=1)
    words = r"The folder holds a run that did not start from init_lora: give this one another"
    with pytest.raises(CheckpointError, match=words):
        runs.start("latest", start_from=tmp_path / "old.safetensors")
    runs.start("", stop_at=1, start_from=tmp_path / "old.safetensors")
    assert runs.started_at == [0, 1, 0, 0]
