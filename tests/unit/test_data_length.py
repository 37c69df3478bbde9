"""The steps of a run in epochs, counted independently from the micro-batches of the sampler."""

from itertools import count, takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_examples import import_small
from tests.unit.test_data_sampler import indexes
from trainer_core.config.plan import Identity, Plan
from trainer_core.config.plan.problems import PlanError
from trainer_core.data.index import DataIndex, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.data.length import ends_epoch, micro_batches_in, steps_on, uses_of
from trainer_core.data.sampler import Sampler

BACKENDS = [
    {"id": "cats", "caption_strategy": "filename", "repeats": 2},
    {"id": "dogs", "caption_strategy": "filename"},
    {"id": "held", "caption_strategy": "filename", "dataset_type": "eval"},
]


def plan_of(batch: int = 1, accumulation: int = 1, ranks: int = 1, **more: Any) -> Plan:
    """A full-rank run, which may have several ranks."""
    config = {
        "model_type": "full",
        "max_train_steps": 0,
        "num_train_epochs": 1,
        "train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "world_size": ranks,
        **more,
    }
    return import_small(config, without=("lora_type",), backends=BACKENDS).plan


def identity_of(**more: Any) -> Identity:
    return plan_of(**more).identity


def counted_steps(identity: Identity, index: DataIndex) -> int:
    """Take micro-batches one by one until the last epoch is over, and steps until all are taken."""
    sampler = Sampler(index, identity.seed, identity.micro_batch_size)
    assert identity.num_train_epochs is not None
    epochs = range(identity.num_train_epochs)
    micro_batches = (sampler.micro_batch(i) for i in count())
    left = sum(1 for _ in takewhile(lambda each: each.epoch in epochs, micro_batches))
    steps = 0
    while left > 0:
        left -= identity.accumulation_steps * identity.world_size
        steps += 1
    return steps


def counted_ends(identity: Identity, index: DataIndex, steps: int, every: int) -> list[int]:
    """The steps that take a micro-batch after which ``every`` more epochs are over."""
    sampler = Sampler(index, identity.seed, identity.micro_batch_size)
    per_step = identity.accumulation_steps * identity.world_size
    after = [sampler.micro_batch(i + 1).epoch for i in range(steps * per_step)]
    ends = [
        i // per_step + 1
        for i, epoch in enumerate(after)
        if epoch % every == 0 and epoch > sampler.micro_batch(i).epoch
    ]
    return list(dict.fromkeys(ends))


@settings(deadline=None, max_examples=60)
@given(indexes(), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_the_steps_are_those_that_visit_every_epoch(
    index: DataIndex, batch: int, accumulation: int, ranks: int, epochs: int
) -> None:
    identity = PLAN.identity.model_copy(
        update={
            "micro_batch_size": batch,
            "accumulation_steps": accumulation,
            "world_size": ranks,
            "num_train_epochs": epochs,
        }
    )

    steps = counted_steps(identity, index)

    assert steps_on(identity, index) == steps
    per_epoch = micro_batches_in(uses_of(index), batch)
    assert per_epoch == Sampler(index, 1, batch).micro_batches_per_epoch
    for every in (1, 2, 3):
        ends = [
            step
            for step in range(1, steps + 1)
            if ends_epoch(identity, per_epoch, step, every=every)
        ]
        assert ends == counted_ends(identity, index, steps, every)


PLAN = plan_of()


def items(**images: tuple[str, int, int]) -> list[FileItem]:
    """Images by name: backend, width and height."""
    return [
        FileItem(
            backend=backend,
            path=f"{name}.png",
            sha256=f"{number:064}",
            width_px=width,
            height_px=height,
            captions=("a caption",),
        )
        for number, (name, (backend, width, height)) in enumerate(images.items())
    ]


FILES = items(
    a=("cats", 256, 256),
    b=("cats", 256, 256),
    c=("cats", 128, 512),
    d=("dogs", 256, 256),
    e=("dogs", 128, 512),
    f=("held", 256, 256),
)
"""Square: 2 · 3 + 1 = 7 uses an epoch; tall: 3 + 1 = 4."""


@pytest.mark.parametrize(
    ("shape", "epochs", "steps"),
    [
        ({}, 1, 11),
        ({}, 3, 33),
        ({"batch": 2}, 1, 4 + 2),  # of both backends, each bucket topped up to whole batches
        ({"batch": 16}, 2, 4),  # a batch larger than its bucket
        ({"batch": 2, "accumulation": 4}, 1, 2),  # the second step has 2 and is filled up
        ({"batch": 2, "accumulation": 4}, 2, 3),  # 12 micro-batches: the epochs are not rounded up
        ({"ranks": 2}, 1, 6),
        ({"batch": 2, "accumulation": 2, "ranks": 2}, 4, 6),
    ],
)
def test_epochs_of_two_backends_and_two_buckets(
    shape: dict[str, int], epochs: int, steps: int
) -> None:
    plan = plan_of(**shape, num_train_epochs=epochs)

    index = build_index(plan, FILES, {})

    assert steps_on(plan.identity, index) == steps == counted_steps(plan.identity, index)


def test_a_run_in_steps_has_these_on_any_data() -> None:
    plan = plan_of(max_train_steps=5, num_train_epochs=0)

    assert steps_on(plan.identity, build_index(plan, FILES, {})) == 5


def test_what_depends_on_the_steps_is_told_once_they_are_known() -> None:
    warm_up = {"lr_scheduler": "linear", "lr_warmup_steps": 11}
    plan = plan_of(**warm_up)

    assert (
        "lr_warmup_steps: 11 is the whole run: linear never falls."
        in build_index(plan, FILES, {}).warnings
    )
    assert not build_index(plan_of(**warm_up, num_train_epochs=2), FILES, {}).warnings


@pytest.mark.parametrize(
    ("options", "pointer", "said"),
    [
        (
            {"use_ema": True, "ema_update_interval": 12},
            "/config/ema_update_interval",
            "The run has 11 steps: no mean would ever be taken. Use at most that many.",
        ),
        (
            {"num_train_epochs": 10_000_000},
            "/config/num_train_epochs",
            "10,000,000 epochs are 110,000,000 steps; a run has at most 100,000,000.",
        ),
    ],
)
def test_epochs_that_a_run_cannot_have_are_refused(
    options: dict[str, Any], pointer: str, said: str
) -> None:
    with pytest.raises(PlanError) as caught:
        build_index(plan_of(**options), FILES, {})

    assert [(p.pointer, p.message) for p in caught.value.problems] == [(pointer, said)]


def test_a_length_in_epochs_is_guarded_as_epochs() -> None:
    linear = {"lr_scheduler": "linear"}
    one, two = plan_of(**linear), plan_of(**linear, num_train_epochs=2)

    assert one.guarded_identity()["num_train_epochs"] == 1
    assert "max_train_steps" not in one.guarded_identity()
    assert one.identity_digest() != two.identity_digest()
    free = plan_of(lr_scheduler="constant")
    assert (
        free.identity_digest()
        == plan_of(lr_scheduler="constant", num_train_epochs=2).identity_digest()
    )
    assert (
        free.identity_digest()
        == plan_of(lr_scheduler="constant", num_train_epochs=0, max_train_steps=9).identity_digest()
    )


def test_a_plan_in_steps_has_the_digest_that_it_had_before_epochs() -> None:
    guarded = import_small({"lr_scheduler": "linear"}).plan.guarded_identity()

    assert guarded["max_train_steps"] == 10
    assert "num_train_epochs" not in guarded


@pytest.mark.parametrize("steps", [None, 0, "0"])
def test_without_a_length_a_run_is_one_epoch_as_in_simpletuner(steps: Any) -> None:
    imported = import_small({"max_train_steps": steps})

    identity = imported.plan.identity
    assert (identity.max_train_steps, identity.num_train_epochs) == (None, 1)
    said = [(each.effect, each.text) for each in imported.notices if "epoch" in each.option]
    text = "num_train_epochs: is 1 where no length is given, as in SimpleTuner."
    assert said == [("handled", text)]
