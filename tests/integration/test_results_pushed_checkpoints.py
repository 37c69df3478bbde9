"""push_checkpoints_to_hub over the service: each checkpoint is published while the run trains."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import safetensors.torch
import torch

from services.results.targets.hub import HubAccess, HubTarget
from services.store import due_rows, publications, run_control
from services.store.database import Database
from services.store.publications import PublicationWork
from tests.support.hub import HubServer
from tests.support.publishing_runs import LEASE, Training, training_of
from tests.support.waiting import wait_until
from trainer_core.errors import Category
from trainer_core.export.origin import ADAPTER_NAME
from trainer_core.process.failure import Failure

REPO = "tester/moon"


@pytest.fixture
def pushing(database: Database, tmp_path: Path, hub_server: HubServer) -> Iterator[Training]:
    """A run that publishes each of its checkpoints."""
    publication = {"hub_model_id": REPO, "checkpoints": True}
    target = HubTarget(HubAccess(token=hub_server.token, endpoint=hub_server.url))
    with training_of(database, tmp_path, publication, {"hub": target}) as found:
        yield found


def adapter_at(hub: HubServer, folder: str = "") -> dict[str, torch.Tensor]:
    found = safetensors.torch.load(hub.repos[REPO].files[f"{folder}{ADAPTER_NAME}"])
    return {name: tensor for name, tensor in found.items() if name.endswith("lokr_w2")}


def values_of(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By their names in the adapter file."""
    return {
        f"lycoris_{name.removesuffix('.w2').replace('.', '_')}.lokr_w2": value
        for name, value in parameters.items()
        if name.endswith(".w2")
    }


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_each_checkpoint_is_published_as_the_run_trains(
    pushing: Training, hub_server: HubServer
) -> None:
    first = pushing.save(10)
    row = pushing.ring_for(10)
    assert (row.status, row.is_automatic) == ("succeeded", True)
    assert_same(adapter_at(hub_server), values_of(first))
    second = pushing.save(20)
    assert pushing.ring_for(20).status == "succeeded"

    assert_same(adapter_at(hub_server), values_of(second))
    assert_same(adapter_at(hub_server, "checkpoint-10/"), values_of(first))
    assert_same(adapter_at(hub_server, "checkpoint-20/"), values_of(second))
    card = hub_server.repos[REPO].files["README.md"].decode()
    assert ", 20 steps." in card
    pushing.finish()
    assert pushing.ring_for(None).status == "succeeded"
    published = hub_server.repos[REPO].files
    result = pushing.folder.with_name("result")
    assert published[ADAPTER_NAME] == (result / ADAPTER_NAME).read_bytes()
    assert "samples/0.png" in published
    assert [each.summary.partition(" of ")[0] for each in hub_server.repos[REPO].commits] == [
        "Checkpoint",
        "Checkpoint",
        "Result",
    ]


def test_a_hub_that_is_slow_gets_the_newest_checkpoint(
    pushing: Training, hub_server: HubServer
) -> None:
    pushing.save(10)
    slow = pushing.started(10)
    pushing.save(20)
    newest = pushing.save(30)

    assert pushing.outcomes() == {10: "running", 20: "superseded", 30: "pending"}
    assert pushing.steps() == [30, 10]  # what is being published, and what the limit keeps
    waiting = pushing.ring_for(30)
    assert (waiting.status, waiting.attempts) == ("pending", 0)

    with pushing.tenant_db.database.transaction() as conn:
        publications.succeed(conn, slow.publication_id, slow.fence, "there", "1")
        due = due_rows.take_publications(conn, 10)
    assert [each.id for each in due] == [waiting.publication_id]
    assert pushing.ring_for(30).status == "succeeded"
    assert_same(adapter_at(hub_server), values_of(newest))
    assert pushing.steps() == [30]


def test_a_checkpoint_that_failed_gives_way_to_a_newer_one(
    pushing: Training, hub_server: HubServer
) -> None:
    pushing.save(10)
    hub_server.failing_with = 503
    assert pushing.ring_for(10).status == "pending"
    newest = pushing.save(20)
    assert pushing.outcomes() == {10: "superseded", 20: "pending"}
    assert pushing.steps() == [20]
    hub_server.failing_with = None

    assert pushing.ring_for(10).status == "failed"
    assert pushing.ring_for(20).status == "succeeded"
    assert_same(adapter_at(hub_server), values_of(newest))
    assert "checkpoint-10/README.md" not in hub_server.repos[REPO].files


def test_a_try_that_fails_after_a_newer_checkpoint_is_not_repeated(pushing: Training) -> None:
    pushing.save(10)
    slow = pushing.started(10)
    pushing.save(20)

    failure = Failure(code="hub_down", category=Category.INFRA, message="", retryable=True)
    with pushing.tenant_db.database.transaction() as conn:
        publications.fail(conn, slow.publication_id, slow.fence, failure, LEASE)

    assert pushing.outcomes() == {10: "superseded", 20: "pending"}


def test_a_publisher_that_died_does_not_put_an_old_checkpoint_over_a_new_one(
    pushing: Training, hub_server: HubServer
) -> None:
    pushing.save(10)
    with pushing.tenant_db.database.transaction() as conn:
        old = pushing.automatic()[10].publication_id
        assert publications.claim(conn, old, timedelta(seconds=-1)) is not None
    newest = pushing.save(20)

    assert pushing.outcomes() == {10: "superseded", 20: "pending"}
    assert pushing.ring(old).status == "failed"
    pushing.ring_for(20)
    assert_same(adapter_at(hub_server), values_of(newest))


def test_the_result_takes_the_place_of_a_checkpoint_that_waits(pushing: Training) -> None:
    pushing.save(10)
    by_hand = pushing.publish(10)
    pushing.finish()

    assert pushing.outcomes() == {10: "superseded", None: "pending"}
    # What was asked for by hand is not the run's to end.
    assert pushing.ring(by_hand).status == "succeeded"


def test_what_the_hub_refuses_stops_no_run(pushing: Training, hub_server: HubServer) -> None:
    pushing.save(10)
    token, hub_server.token = hub_server.token, "hf_another"
    assert pushing.ring_for(10).status == "failed"
    run = pushing.tenant_db.run(pushing.claim.run_id)
    assert (run.status, run.checkpoint_step) == ("running", 10)
    hub_server.token = token

    pushing.save(20)

    assert pushing.ring_for(20).status == "succeeded"
    assert pushing.outcomes() == {10: "hub_token_refused", 20: "succeeded"}


def test_of_two_that_are_claimed_at_once_one_waits(pushing: Training) -> None:
    pushing.save(10)
    slow = pushing.started(10)
    pushing.save(20)
    with pushing.tenant_db.database.transaction() as conn:
        publications.succeed(conn, slow.publication_id, slow.fence, "there", "1")
    pushing.finish()
    # Both of the run may be claimed from now on: the row of step 20 is put back to before.
    with pushing.tenant_db.database.transaction() as conn:
        conn.execute("UPDATE publications SET status = 'pending' WHERE checkpoint_step = 20")
        conn.execute(
            "UPDATE publications SET created_at = created_at + interval '1 hour'"
            " WHERE checkpoint_step = 20"
        )
    claimed: list[PublicationWork | None] = []

    def claim_result() -> None:
        with pushing.tenant_db.database.transaction() as conn:
            claimed.append(
                publications.claim(conn, pushing.automatic()[None].publication_id, LEASE)
            )

    other = threading.Thread(target=claim_result)
    with pushing.tenant_db.database.transaction() as conn:
        assert publications.claim(conn, pushing.automatic()[20].publication_id, LEASE) is not None
        other.start()
        wait_until(lambda: is_waiting_for_a_lock(pushing), what="the other claim to wait")
    other.join()

    assert claimed == [None]


def is_waiting_for_a_lock(training: Training) -> bool:
    with training.tenant_db.database.transaction() as conn:
        row = conn.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchone()
    return row != (0,)


def test_the_checkpoint_of_a_run_that_is_canceled_is_not_published(pushing: Training) -> None:
    with pushing.tenant_db.database.transaction() as conn:
        run_control.cancel(conn, pushing.claim.tenant_id, pushing.claim.run_id)
    pushing.save(10)

    assert pushing.automatic() == {}
