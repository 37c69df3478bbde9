"""One attempt in a real process with a real child: how it ends, and what nobody may survive."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.trainer_supervisor_place import (
    Place,
    claimable_again,
    open_place,
    wait_until,
)
from tests.support.postgres import PostgresServer


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    with open_place(tmp_path, database_url) as place:
        yield place


def test_a_run_is_trained_and_committed(place: Place) -> None:
    assert place.end_of(place.start("finish")) == 0, place.logs()

    assert place.run()["status"] == "succeeded", place.logs()
    assert place.run()["result_step"] == 10
    assert place.attempts()[0][0] == "finished"
    checkpoints = place.ask("SELECT step FROM checkpoints WHERE run_id = %(run_id)s ORDER BY step")
    assert checkpoints == [(2,), (4,), (6,), (8,), (10,)]
    environment = place.events("stage")[0][1]["environment"]
    assert not {name for name in environment if name.startswith(("REVERIE_D", "HF_TOKEN", "AWS_"))}
    assert "path" not in place.events("checkpoint")[0][1]  # nothing of this machine's disk
    assert list((place.folder / "scratch").glob("wrk_*")) == []


def test_sigterm_commits_and_the_next_worker_goes_on(place: Place) -> None:
    first = place.start("endless")
    place.wait_for_step(5)

    first.send_signal(signal.SIGTERM)
    assert place.end_of(first) == 0

    run = place.run()
    assert (run["status"], run["fence"]) == ("queued", 1), place.logs()
    assert place.attempts()[0][0] == "stopped"
    last_step = place.events("step")[-1][0]
    assert last_step - run["checkpoint_step"] <= 1
    claimable_again(place)
    second = place.start("finish")
    assert place.end_of(second) == 0
    assert place.run()["status"] == "succeeded", place.logs()
    assert place.attempts()[1][1] == run["checkpoint_step"]


def test_a_lost_lease_kills_the_child_and_nothing_more_is_written(place: Place) -> None:
    holder = place.start("endless")
    place.wait_for_step(3)

    place.do("UPDATE runs SET fence = fence + 1 WHERE run_id = %(run_id)s")
    assert place.end_of(holder) == 0

    before = place.run()
    assert not place.child_pids()
    assert before["status"] == "running"
    assert place.attempts()[0][0] is None  # neither handed back nor ended by the old holder
    assert list((place.folder / "scratch").glob("wrk_*")) == []


def test_a_child_that_dies_is_retryable_and_its_checkpoints_stand(place: Place) -> None:
    assert place.end_of(place.start("die")) == 0

    outcome, _, code, message = place.attempts()[0]
    assert (outcome, code) == ("failed", "child_died"), place.logs()
    assert "SIGKILL" in message
    assert place.run()["status"] == "queued"
    assert place.run()["checkpoint_step"] == 4


def test_a_child_that_hangs_is_ended(place: Place) -> None:
    assert place.end_of(place.start("hang", REVERIE_STALL_S="1.5")) == 0

    outcome, _, code, _ = place.attempts()[0]
    assert (outcome, code) == ("failed", "stalled"), place.logs()
    assert place.run()["status"] == "queued"
    assert not place.child_pids()


def test_a_users_error_is_not_retried(place: Place) -> None:
    assert place.end_of(place.start("fail")) == 0

    assert place.attempts()[0][2] == "non_finite_loss", place.logs()
    assert place.run()["status"] == "failed"


def test_no_orphan_outlives_a_killed_supervisor(place: Place) -> None:
    holder = place.start("endless")
    place.wait_for_step(3)
    assert len(place.child_pids()) == 1

    holder.kill()
    place.end_of(holder)

    wait_until(lambda: not place.child_pids(), "the orphan to end")
    assert list((place.folder / "scratch").glob("wrk_*"))  # left behind …
    claimable_again(place)
    assert place.end_of(place.start("finish")) == 0
    assert list((place.folder / "scratch").glob("wrk_*")) == []  # … and wiped by the next one


def test_cancel_stops_the_child(place: Place) -> None:
    holder = place.start("endless")
    place.wait_for_step(3)

    place.do("UPDATE runs SET status = 'canceling' WHERE run_id = %(run_id)s")
    assert place.end_of(holder) == 0

    assert place.run()["status"] == "canceled", place.logs()


def test_a_frozen_database_pauses_the_child_until_the_same_fence_renews(
    place: Place, postgres_server: PostgresServer
) -> None:
    holder = place.start("endless")
    place.wait_for_step(3)
    (child,) = place.child_pids()
    (attempt,) = (place.folder / "scratch").glob("wrk_*/attempt-*")

    postgres_server.freeze()
    try:
        wait_until(lambda: _paused(attempt), "the child to pause")
    finally:
        postgres_server.thaw()

    wait_until(lambda: not _paused(attempt), "the child to go on")
    step = place.run()["step"]
    place.wait_for_step(step + 3)
    assert place.child_pids() == [child]
    holder.send_signal(signal.SIGTERM)
    assert place.end_of(holder) == 0
    assert place.attempts()[0][0] == "stopped", place.logs()


def _paused(attempt: Path) -> bool:
    stages = [
        event["stage"]
        for line in (attempt / "events.jsonl").read_text().splitlines()
        if '"stage"' in line and (event := json.loads(line))["event"] == "stage"
    ]
    return stages[-1] == "paused"


def test_a_damaged_checkpoint_is_named_and_not_retried(place: Place) -> None:
    assert place.end_of(place.start("die")) == 0
    claimable_again(place)
    (manifest,) = place.stored_state(4)
    (manifest.parent / "state.bin").write_bytes(b"state after 5")

    assert place.end_of(place.start("finish")) == 0

    assert place.attempts()[1][2] == "checkpoint_corrupt", place.logs()
    assert "step 4" in place.attempts()[1][3]
    assert place.run()["status"] == "failed"
