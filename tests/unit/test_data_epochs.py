"""What a run of any files trains on, walked one micro-batch at a time and counted by hand."""

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.config.plan import Plan
from trainer_core.data.index import DataIndex, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.data.length import steps_on
from trainer_core.data.orders import sampler_of
from trainer_core.data.sampler import MicroBatch

STEPS = 40
PICTURES = ((64, 64), (70, 64), (64, 128), (300, 300), (250, 120), (60, 190))


@dataclass(frozen=True)
class Files:
    """Backends as a user writes them, and the files of each."""

    config: dict[str, Any]
    backends: list[dict[str, Any]]
    items: list[FileItem]

    def plan(self) -> Plan:
        return import_small(self.config, backends=self.backends).plan

    def index(self) -> DataIndex:
        return build_index(self.plan(), self.items, TINY_CONFIG)

    def used(self) -> dict[str, int]:
        """Backend id → how many of its images are used."""
        found = {}
        for each in self.backends:
            files = [item for item in self.items if item.backend == each["id"]]
            found[each["id"]] = min(len(files), each.get("max_num_samples") or len(files))
        return found


@st.composite
def written(draw: st.DrawFn) -> Files:
    """Any backends: several sizes of one source, held-out images, windows, subsets, crops."""
    shared = draw(st.lists(st.sampled_from(PICTURES), min_size=1, max_size=7))
    backends: list[dict[str, Any]] = []
    items: list[FileItem] = []
    for n in range(draw(st.integers(1, 4))):
        is_first = n == 0
        options: dict[str, Any] = {
            "resolution": draw(st.sampled_from((64, 128, 256))),
            "max_num_samples": draw(st.none() | st.integers(1, 6)),
        }
        if draw(st.booleans()):
            options |= {
                "crop": True,
                "crop_aspect": draw(st.sampled_from(("square", "preserve", "closest", "random"))),
                "crop_aspect_buckets": [0.5, 1, 2],
                "crops_per_image": draw(st.integers(1, 3)),
            }
        is_trained_on = is_first or draw(st.integers(0, 4)) > 0
        if is_trained_on:
            options |= {
                "repeats": draw(st.integers(0, 3)),
                "probability": draw(st.sampled_from((1, 0.25, 7.5))),
                "is_regularisation_data": draw(st.booleans()),
            }
        else:
            options["dataset_type"] = "eval"
        if is_trained_on and not is_first:
            start_step, start_epoch = draw(st.integers(0, 9)), draw(st.integers(1, 3))
            last = st.just(0) | st.integers(10, 30)
            options |= {
                "start_step": start_step,
                "start_epoch": start_epoch,
                "end_step": draw(last),
                "end_epoch": draw(st.just(0) | st.integers(3, 6)),
            }
        name = f"b{n}"
        backends.append({"id": name, "caption_strategy": "filename"} | options)
        sizes = (
            shared
            if draw(st.booleans())
            else draw(st.lists(st.sampled_from(PICTURES), min_size=1, max_size=7))
        )
        source = "shared" if sizes is shared else name
        items += [
            FileItem(
                backend=name,
                path=f"{source}/{number}.png",
                sha256=random.Random(f"{source}{number}").randbytes(32).hex(),
                width_px=width,
                height_px=height,
                captions=("one", "two")[: 1 + number % 2],
            )
            for number, (width, height) in enumerate(sizes)
        ]  # fmt: skip
    config = {
        "seed": draw(st.integers(1, 2**31 - 1)),
        "train_batch_size": draw(st.integers(1, 9)),
        "gradient_accumulation_steps": draw(st.sampled_from((1, 2, 3, 4, 6))),
        "data_backend_sampling": draw(st.sampled_from(("uniform", "auto-weighting"))),
        "max_train_steps": STEPS,
    }
    return Files(config, backends, items)


@dataclass
class Walk:
    """The run, one micro-batch after the other, by the words of the documentation."""

    files: Files
    index: DataIndex
    active: tuple[str, ...] = ()
    epoch: int = 0
    owed: Counter[tuple[str, int, int, str]] = field(default_factory=Counter)
    """(backend, width, height, path) → uses that are left in the epoch."""
    spare: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    """Uses by which the last micro-batch of a bucket is filled up."""
    left: int = 0
    """Micro-batches that are left in the epoch."""

    def begin_step(self, step: int) -> None:
        active = tuple(self._active(step))
        assert active, "the first backend is trained on all the time"
        if active != self.active:
            self.active = active
            self._begin_epoch()

    def _active(self, step: int) -> Iterator[str]:
        for each in self.files.backends:
            starts = step >= each.get("start_step", 1) and self.epoch + 1 >= each.get(
                "start_epoch", 1
            )
            ends = (each.get("end_step") or step) < step or (
                each.get("end_epoch") or self.epoch + 1
            ) < self.epoch + 1
            if "dataset_type" not in each and starts and not ends:
                yield each["id"]

    def _begin_epoch(self) -> None:
        batch = self.files.config["train_batch_size"]
        repeats = {each["id"]: each.get("repeats", 0) for each in self.files.backends}
        buckets = Counter[tuple[str, int, int]]()
        self.owed.clear()
        for sample in self.index.samples:
            if sample.backend in self.active:
                bucket = sample.backend, sample.width_px, sample.height_px
                self.owed[*bucket, sample.path] = 1 + repeats[sample.backend]
                buckets[bucket] += 1 + repeats[sample.backend]
        self.spare = Counter({bucket: -uses % batch for bucket, uses in buckets.items()})
        self.left = sum(math.ceil(uses / batch) for uses in buckets.values())

    def take(self, batch: MicroBatch) -> None:
        if self.left == 0:
            self.epoch += 1
            self._begin_epoch()
        self.left -= 1
        assert batch.epoch == self.epoch
        samples = [self.index.samples[position] for position in batch.samples]
        assert len(samples) == self.files.config["train_batch_size"]
        ((backend, width, height),) = {(s.backend, s.width_px, s.height_px) for s in samples}
        assert backend in self.active
        for sample, caption, crop in zip(samples, batch.captions, batch.crops, strict=True):
            assert caption < len(sample.texts)
            assert crop < sample.num_crops
            key = backend, width, height, sample.path
            if self.owed[key]:
                self.owed[key] -= 1
            else:
                self.spare[backend, width, height] -= 1
                assert self.spare[backend, width, height] >= 0
        if self.left == 0:
            assert not any(self.owed.values())
            assert not any(self.spare.values())

    def end_step(self) -> None:
        """The next step's backends are those of the epoch that it begins in."""
        if self.left == 0:
            self.epoch += 1
            self._begin_epoch()


def attempts_of(
    files: Files, rng: random.Random, per_step: int
) -> Iterator[tuple[int, list[MicroBatch]]]:
    """The steps of a run that is stopped at random and goes on with other ranks.

    Each rank has its own copy of the data, whose files come in any order.
    """
    step = 0
    while step < STEPS:
        ranks = rng.choice([n for n in range(1, per_step + 1) if per_step % n == 0])
        end = min(STEPS, step + rng.randint(1, 15))
        plan = files.plan()
        items = rng.sample(files.items, len(files.items))
        stored = build_index(plan, items, TINY_CONFIG).model_dump_json()
        samplers = [
            sampler_of(plan.identity, DataIndex.model_validate_json(stored)) for _ in range(ranks)
        ]
        for number in range(step, end):
            places = range(number * per_step, (number + 1) * per_step)
            yield number + 1, [samplers[i % per_step % ranks].micro_batch(i) for i in places]
        step = end


def check(files: Files, rng: random.Random) -> None:
    index = files.index()
    assert Counter(sample.backend for sample in index.samples) == files.used()
    per_step = files.config["gradient_accumulation_steps"]
    walk = Walk(files, index)
    last_steps: dict[int, int] = {}
    for step, batches in attempts_of(files, rng, per_step):
        walk.begin_step(step)
        for batch in batches:
            walk.take(batch)
        walk.end_step()
        last_steps |= dict.fromkeys(range(len(last_steps) + 1, walk.epoch + 1), step)
    identity = files.plan().identity
    for epochs, step in last_steps.items():
        length = {"max_train_steps": None, "num_train_epochs": epochs}
        assert steps_on(identity.model_copy(update=length), index) == step


@settings(deadline=None, max_examples=15)
@given(written(), st.randoms(use_true_random=False))
def test_each_epoch_of_any_run_has_each_image_as_often_as_asked(
    files: Files, rng: random.Random
) -> None:
    check(files, rng)


@pytest.mark.deep
@settings(deadline=None, max_examples=150)
@given(written(), st.randoms(use_true_random=False))
def test_each_epoch_of_very_many_runs_has_each_image_as_often_as_asked(
    files: Files, rng: random.Random
) -> None:
    check(files, rng)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("sampling", "weights"),
    [("uniform", (1, 0.5, 3)), ("auto-weighting", (1 * 300, 0.5 * 600 * 2, 3 * 150))],
)
def test_backends_are_drawn_by_their_probability(
    seed: int, sampling: str, weights: tuple[float, ...]
) -> None:
    """In the first 200 micro-batches, where no backend is used up, within 5 sigma of the share."""
    numbers = {"b0": 300, "b1": 600, "b2": 150}
    backends = [
        {"id": "b0", "caption_strategy": "filename"},
        {"id": "b1", "caption_strategy": "filename", "probability": 0.5, "repeats": 1},
        {"id": "b2", "caption_strategy": "filename", "probability": "3"},
    ]
    config = {"seed": seed, "train_batch_size": 1, "data_backend_sampling": sampling}
    items = [
        FileItem(
            backend=name,
            path=f"{n}.png",
            sha256=random.Random(f"{name}{n}").randbytes(32).hex(),
            width_px=64,
            height_px=64,
            captions=("one",),
        )
        for name, number in numbers.items()
        for n in range(number)
    ]
    files = Files(config, backends, items)
    index = files.index()
    sampler = sampler_of(files.plan().identity, index)

    drawn = Counter(index.samples[sampler.micro_batch(i).samples[0]].backend for i in range(200))

    for name, weight in zip(numbers, weights, strict=True):
        share = weight / sum(weights)
        assert abs(drawn[name] - 200 * share) < 5 * math.sqrt(200 * share * (1 - share))
