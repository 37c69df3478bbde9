"""Failures as JSON, and the pauses between tries."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.domain.failures import (
    attempts_exhausted,
    backoff,
    worker_lost,
)
from services.domain.ids import is_id, new_id
from trainer_core.process.failure import failure_as_json, failure_from_json


def test_a_failure_survives_json() -> None:
    assert failure_from_json(failure_as_json(worker_lost())) == worker_lost()


def test_the_last_word_names_the_last_cause() -> None:
    last = attempts_exhausted(5, worker_lost())
    assert not last.retryable
    assert "5 attempts" in last.message
    assert worker_lost().message in last.message
    assert "train_batch_size" in last.message


@given(st.integers(min_value=0, max_value=10_000))
def test_a_pause_lies_within_its_limits(tries: int) -> None:
    first, limit = timedelta(seconds=1), timedelta(minutes=5)
    pause = backoff(tries, first=first, limit=limit)
    assert first / 2 <= pause <= min(limit, first * 2 ** min(tries, 20))


def test_ids_sort_by_time_and_know_their_kind() -> None:
    run_id = new_id("run")
    assert is_id(run_id, "run")
    assert not is_id(run_id, "ds")
    assert not is_id(run_id + "\n", "run")
    assert not is_id(run_id.upper(), "run")
