"""The steps of a run in epochs, counted independently from the micro-batches of the sampler."""

from collections.abc import Sequence
from itertools import count, takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.config_examples import import_small
from tests.unit.test_data_sampler import datasets, identity_of, windowed
from trainer_core.config.plan import Backend, Identity, Plan
from trainer_core.config.plan.problems import PlanError
from trainer_core.data.index import DataIndex, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.data.length import epoch_steps_on, steps_on
from trainer_core.data.orders import sampler_of

BACKENDS: list[dict[str, Any]] = [
    {"id": "cats", "caption_strategy": "filename", "repeats": 2},
    {"id": "dogs", "caption_strategy": "filename"},
    {"id": "held", "caption_strategy": "filename", "dataset_type": "eval"},
]


def plan_of(
    batch: int = 1,
    accumulation: int = 1,
    ranks: int = 1,
    backends: Sequence[dict[str, Any]] = BACKENDS,
    **more: Any,
) -> Plan:
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
    return import_small(config, without=("lora_type",), backends=list(backends)).plan


def counted_steps(identity: Identity, index: DataIndex) -> int:
    """Take micro-batches one by one until the last epoch is over, and steps until all are taken."""
    sampler = sampler_of(identity, index)
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
    sampler = sampler_of(identity, index)
    per_step = identity.accumulation_steps * identity.world_size
    after = [sampler.micro_batch(i + 1).epoch for i in range(steps * per_step)]
    ends = [
        i // per_step + 1
        for i, epoch in enumerate(after)
        if epoch % every == 0 and epoch > sampler.micro_batch(i).epoch
    ]
    return list(dict.fromkeys(ends))


@settings(deadline=None, max_examples=30)
@given(datasets(), st.data(), st.sampled_from((1, 2)), st.integers(1, 4))
def test_the_steps_are_those_that_visit_every_epoch(
    data: tuple[tuple[Backend, ...], DataIndex], draw: st.DataObject, order: int, epochs: int
) -> None:
    backends, index = data
    identity = identity_of(
        *windowed(draw, backends),
        micro_batch_size=draw.draw(st.integers(1, 5)),
        accumulation_steps=draw.draw(st.integers(1, 4)),
        world_size=draw.draw(st.integers(1, 3)),
        max_train_steps=None,
        num_train_epochs=epochs,
        sample_order=order,
    )

    steps = counted_steps(identity, index)

    assert steps_on(identity, index) == steps
    timeline = sampler_of(identity, index).timeline
    for every in (1, 2, 3):
        ends = [step for step in range(1, steps + 1) if timeline.ends_epoch(step, every=every)]
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
"""Uses in an epoch: cats 2 · 3 = 6 square and 3 tall, dogs one of each."""


@pytest.mark.parametrize(
    ("shape", "epochs", "steps", "mixed_steps"),
    [
        ({}, 1, 11, 11),
        ({}, 3, 33, 33),
        # Each bucket is filled up to whole batches: of each backend, or of both as in the older
        # order.
        ({"batch": 2}, 1, 3 + 2 + 1 + 1, 4 + 2),
        ({"batch": 16}, 2, 8, 4),  # a batch larger than its bucket
        ({"batch": 2, "accumulation": 4}, 1, 2, 2),  # the second step is filled up
        ({"batch": 2, "accumulation": 4}, 2, 4, 3),  # 14 or 12: the epochs are not rounded up
        ({"ranks": 2}, 1, 6, 6),
        ({"batch": 2, "accumulation": 2, "ranks": 2}, 4, 7, 6),
    ],
)
def test_epochs_of_two_backends_and_two_buckets(
    shape: dict[str, Any], epochs: int, steps: int, mixed_steps: int
) -> None:
    plan = plan_of(**shape, num_train_epochs=epochs)
    mixed = plan.identity.model_copy(update={"sample_order": 1})

    index = build_index(plan, FILES, {})

    assert steps_on(plan.identity, index) == steps == counted_steps(plan.identity, index)
    assert steps_on(mixed, index) == mixed_steps == counted_steps(mixed, index)


def test_a_backend_that_starts_later_makes_the_epochs_longer() -> None:
    """Cats alone have epochs of 9 steps; from step 5 on, both have epochs of 11."""
    plan = plan_of(backends=[BACKENDS[0], {**BACKENDS[1], "start_step": 5}], num_train_epochs=2)

    index = build_index(plan, FILES[:5], {})

    assert steps_on(plan.identity, index) == 4 + 2 * 11 == counted_steps(plan.identity, index)
    # 4 of 9 micro-batches, and two whole epochs.
    assert epoch_steps_on(plan.identity, index) == pytest.approx(26 / (4 / 9 + 2))


def test_a_step_without_a_backend_is_refused_once_the_epochs_are_known() -> None:
    """Cats end after their first epoch, which is 9 steps; dogs start at step 12."""
    backends = [{**BACKENDS[0], "end_epoch": 1}, {**BACKENDS[1], "start_step": 12}]
    plan = plan_of(backends=backends, num_train_epochs=0, max_train_steps=20)

    with pytest.raises(PlanError) as caught:
        build_index(plan, FILES[:5], {})

    said = (
        "No data backend is trained on at step 10: cats ends after epoch 1; dogs starts at step "
        "12. Let one of them start earlier or end later."
    )
    assert [(p.pointer, p.message) for p in caught.value.problems] == [("/data_backends", said)]
    shorter = plan_of(backends=backends, num_train_epochs=0, max_train_steps=9)
    assert steps_on(shorter.identity, build_index(shorter, FILES[:5], {})) == 9


def test_a_backend_that_starts_after_the_run_is_told() -> None:
    backends = [BACKENDS[0], {**BACKENDS[1], "start_epoch": 3}]
    plan = plan_of(backends=backends, num_train_epochs=2)

    said = "dogs is never trained on: it starts with epoch 3, and the run has 18 steps."
    assert said in build_index(plan, FILES[:5], {}).warnings
    assert not build_index(plan_of(backends=backends, num_train_epochs=3), FILES[:5], {}).warnings


def test_a_run_in_steps_has_these_on_any_data() -> None:
    plan = plan_of(max_train_steps=5, num_train_epochs=0)

    assert steps_on(plan.identity, build_index(plan, FILES, {})) == 5


def test_what_depends_on_the_steps_is_told_once_they_are_known() -> None:
    warm_up: dict[str, Any] = {"lr_scheduler": "linear", "lr_warmup_steps": 11}
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
    linear: dict[str, Any] = {"lr_scheduler": "linear"}
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
