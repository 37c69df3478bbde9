"""Events of a run as rows of its history at Weights & Biases, however they are cut into turns."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.results.relay.failures import failure_of_wandb
from services.results.relay.rows import rows_of
from services.store.runs import Event
from trainer_core.process.scalars import scalars_of

AT = datetime(2026, 11, 29, tzinfo=UTC)


def events_of(*facts: tuple[str, int, Any]) -> list[Event]:
    """(type, step, value) of each event, in order."""
    names = {"step": "loss", "eval": "mean"}
    return [
        Event(
            run_id="run_1", seq=seq, fence=1, type=type_, step=step, created_at=AT,
            data={"name": "probe", names.get(type_, "message"): value},
        )
        for seq, (type_, step, value) in enumerate(facts, 1)
    ]  # fmt: skip


# The second attempt starts from step 2 and takes step 3 again, with another value.
EVENTS = events_of(
    ("run.queued", 0, "a"), ("eval", 0, 9.0), ("step", 1, 1.0), ("step", 2, 2.0),
    ("step", 3, 3.0), ("run.queued", 3, "a"), ("eval", 2, 8.0), ("step", 3, 30.0),
    ("eval", 3, 7.0), ("step", 4, None), ("step", 5, float("inf")), ("step", 6, 10**400),
    ("step", 7, 7.0), ("eval", 7, 6.0), ("finished", 7, "a"),
)  # fmt: skip
ROWS = [
    (0, {"eval/probe/mean": 9.0}),
    (1, {"train/loss": 1.0}),
    (2, {"train/loss": 2.0}),
    (3, {"train/loss": 30.0, "eval/probe/mean": 7.0}),
    (7, {"train/loss": 7.0, "eval/probe/mean": 6.0}),
]


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("known", range(1, len(EVENTS) + 1))
def test_every_cut_gives_the_same_steps_and_loses_nothing(known: int, limit: int) -> None:
    seq, rows = 0, []
    for newest in (known, *[len(EVENTS)] * (len(ROWS) + 1)):
        found = rows_of(
            EVENTS[seq:newest],
            after_seq=seq,
            after_step=rows[-1].step if rows else -1,
            are_all=newest == len(EVENTS),
            limit=limit,
        )
        assert len(found.rows) <= limit
        assert found.seq >= seq
        seq = found.seq
        rows += found.rows

    assert [(row.step, row.values) for row in rows] == ROWS
    assert seq == len(EVENTS)


def test_the_last_step_waits_for_more_of_its_numbers() -> None:
    found = rows_of(EVENTS[:5], after_seq=0, after_step=-1, are_all=False, limit=100)
    assert [row.step for row in found.rows] == [0, 1, 2]
    assert found.seq == 4


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("returned error 401: {}", "wandb_key_refused"),
        ("HTTP error 403 Forbidden", "wandb_forbidden"),
        ("returned error 404", "wandb_project_missing"),
        ("returned error 429: slow down", "wandb_down"),
        ("returned error 502: <html>", "wandb_down"),
        ("returned error 410: gone", "wandb_refused"),
        ("dial tcp 127.0.0.1:40400: connect: connection refused", "wandb_down"),
    ],
)
def test_failures_say_what_to_do(text: str, code: str) -> None:
    failure = failure_of_wandb(RuntimeError(text), "my-wandb", "moons")
    assert failure.code == code
    assert failure.retryable == (code == "wandb_down")


def test_an_evaluation_is_a_curve_with_its_interval_and_one_for_each_noise_level() -> None:
    event = {
        "name": "evaluation",
        "mean": 2.0,
        "low": 1.5,
        "high": None,
        "by_sigma": [{"sigma": 0.25, "mean": 3.0}, {"sigma": 0.75, "mean": None}, "x"],
        "by_backend": [{"backend": "dogs", "images": 4, "mean": 1.0}],
        "images": 4,
        "took_s": 0.5,
    }

    assert scalars_of("eval", event) == {
        "eval/evaluation/mean": 2.0,
        "eval/evaluation/low": 1.5,
        "eval/evaluation/sigma_0.2500": 3.0,
        "eval/evaluation/backend_dogs": 1.0,
    }


def test_scores_of_pictures_have_a_curve_for_each_kind_of_weights() -> None:
    event = {"name": "clip", "weights": "ema", "mean": 0.25, "pictures": 2, "similarity_mean": 0.75}

    assert scalars_of("eval", event) == {
        "eval/clip/ema/mean": 0.25,
        "eval/clip/ema/similarity_mean": 0.75,
    }
