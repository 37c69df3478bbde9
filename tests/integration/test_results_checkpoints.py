"""A checkpoint is published as an adapter with a card, as long as it is there."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file

from services.domain.errors import InvalidRequestError
from services.domain.ids import new_id
from services.domain.ledger import Claim, StoredCheckpoint
from services.objects.folder_store import FolderStore
from services.objects.folders import put_folder
from services.objects.keys import checkpoint_prefix, result_prefix
from services.objects.signing import UrlSigner
from services.results.publish import Publisher
from services.results.targets.folder import FolderTarget
from services.results.targets.hub import HubAccess, HubTarget
from services.results.targets.port import PublicationTarget
from services.store import due_rows, publications, run_control, runs
from services.store.database import Database
from services.store.publications import Publication, PublicationWork
from services.workers.scratch import Scratch
from tests.support.finished_runs import write_result
from tests.support.hub import HubServer
from tests.support.runs import TenantDatabase
from tests.support.waiting import wait_until
from tests.unit.config_examples import import_small
from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.write import CheckpointFacts, TrainedTensors, write_checkpoint
from trainer_core.config.plan import LokrAdapter, Plan
from trainer_core.errors import Category
from trainer_core.export.origin import ADAPTER_NAME
from trainer_core.process.failure import Failure


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run that trains, and a publisher."""

    tenant_db: TenantDatabase
    objects: FolderStore
    claim: Claim
    """Of the run; its newest checkpoint is the only one that is kept."""
    plan: Plan
    folder: Path
    publisher: Publisher

    def save(self, step: int) -> dict[str, torch.Tensor]:
        """Store a checkpoint; its parameters."""
        adapter = self.plan.identity.adapter
        assert isinstance(adapter, LokrAdapter)
        names = [f"{module.path}.{name}" for module in adapter.modules for name in ("w1", "w2")]
        parameters = {name: torch.randn(2, 3) for name in names}
        run = CheckpointIdentity(
            identity_digest="1" * 64,
            identity={},
            data_digest="2" * 64,
            base_digest="3" * 64,
            matmul="auto",
        )
        loss = {"mean": 0.5, "held_out_mean": 0.25, "losses": [0.5]}
        facts = CheckpointFacts(step=step, cursor=step, run=run, scalars={"probe_before": loss})
        trained = TrainedTensors(parameters=parameters, optimizer_state={}, ema={})
        written = write_checkpoint(self.folder, facts, trained)
        scope = (self.claim.tenant_id, self.claim.run_id, self.claim.fence)
        files = put_folder(self.objects, checkpoint_prefix(*scope, step), written.path)
        stored = StoredCheckpoint(step=step, files=files)
        self.tenant_db.ledger.commit_checkpoint(self.claim.run_id, self.claim.fence, stored)
        return parameters

    def publish(self, step: int | None) -> str:
        with self.tenant_db.database.transaction() as conn:
            return publications.create(
                conn,
                self.claim.tenant_id,
                self.claim.run_id,
                {"kind": "folder"},
                checkpoint_step=step,
            ).publication_id

    def ring(self, publication_id: str) -> Publication:
        self.publisher.answer_ring(self.claim.tenant_id, publication_id)
        with self.tenant_db.database.transaction() as conn:
            return publications.get(conn, self.claim.tenant_id, publication_id)

    def steps(self) -> list[int]:
        with self.tenant_db.database.transaction() as conn:
            rows = runs.checkpoints(conn, self.claim.tenant_id, self.claim.run_id)
        return [row.step for row in rows]

    def finish(self) -> None:
        """Store the result."""
        result = self.folder.with_name("result")
        write_result(result)
        scope = (self.claim.tenant_id, self.claim.run_id, self.claim.fence)
        files = put_folder(self.objects, result_prefix(*scope), result)
        self.tenant_db.ledger.commit_result(
            self.claim.run_id, self.claim.fence, files, step=RESULT_STEP
        )

    def started(self, step: int) -> PublicationWork:
        """The automatic publication of a checkpoint, as a publisher that is at work has it."""
        with self.tenant_db.database.transaction() as conn:
            work = publications.claim(conn, self.automatic()[step].publication_id, LEASE)
        assert work is not None
        return work

    def automatic(self) -> dict[int | None, Publication]:
        """The newest automatic publication of each step; None: of the result."""
        with self.tenant_db.database.transaction() as conn:
            rows = publications.list_page(conn, self.claim.tenant_id, 100)
        return {row.checkpoint_step: row for row in reversed(rows) if row.is_automatic}

    def outcomes(self) -> dict[int | None, str]:
        """Of the automatic publications: the status, or the code of the failure."""
        return {
            step: row.error["code"] if row.status == "failed" and row.error else row.status
            for step, row in self.automatic().items()
        }

    def ring_for(self, step: int | None) -> Publication:
        return self.ring(self.automatic()[step].publication_id)


RESULT_STEP = 40
LEASE = timedelta(seconds=60)
REPO = "tester/moon"


@pytest.fixture
def training(database: Database, tmp_path: Path) -> Iterator[Training]:
    """A run that publishes its checkpoints on request only."""
    with training_of(database, tmp_path, {}, {}) as found:
        yield found


@pytest.fixture
def pushing(database: Database, tmp_path: Path, hub_server: HubServer) -> Iterator[Training]:
    """A run that publishes each of its checkpoints."""
    publication = {"hub_model_id": REPO, "checkpoints": True}
    target = HubTarget(HubAccess(token=hub_server.token, endpoint=hub_server.url))
    with training_of(database, tmp_path, publication, {"hub": target}) as found:
        yield found


@contextmanager
def training_of(
    database: Database,
    tmp_path: Path,
    publication: dict[str, Any],
    others: dict[str, PublicationTarget],
) -> Iterator[Training]:
    """``others``: targets beside the folder."""
    objects = FolderStore(
        tmp_path / "objects", UrlSigner(api_url="http://localhost", signing_key=b"k" * 16)
    )
    tenant_db = TenantDatabase.new(database)
    plan = import_small().plan
    body = plan.model_dump(mode="json")
    body["operation"]["checkpoints_total_limit"] = 1
    body["operation"]["publication"] |= publication
    with Scratch(tmp_path / "scratch", new_id("wrk")) as scratch:
        yield Training(
            tenant_db=tenant_db,
            objects=objects,
            claim=tenant_db.held(plan=body),
            plan=plan,
            folder=tmp_path / "checkpoints",
            publisher=Publisher(
                database=database,
                objects=objects,
                targets={"folder": FolderTarget(tmp_path / "publications"), **others},
                scratch=scratch,
                lease=LEASE,
            ),
        )


def test_a_checkpoint_of_a_run_that_trains_is_published(training: Training) -> None:
    parameters = training.save(10)

    row = training.ring(training.publish(10))

    assert (row.status, row.checkpoint_step, row.error) == ("succeeded", 10, None)
    assert row.location is not None
    place = Path(row.location)
    assert place.name == f"{training.claim.run_id}-step-00000010"
    assert sorted(path.name for path in place.iterdir()) == [
        "README.md",
        "lycoris_config.json",
        ADAPTER_NAME,
    ]
    tensors = load_file(place / ADAPTER_NAME)
    adapter = training.plan.identity.adapter
    assert isinstance(adapter, LokrAdapter)
    for module in adapter.modules:
        published = tensors[f"lycoris_{module.path.replace('.', '_')}.lokr_w2"]
        assert torch.equal(published, parameters[f"{module.path}.w2"])
    card = (place / "README.md").read_text()
    assert ", 10 steps." in card
    assert "## Use" in card
    assert "samples/0.png" not in card
    assert json.loads((place / "lycoris_config.json").read_text())["algo"] == "lokr"


def test_a_checkpoint_stays_until_it_is_published(training: Training) -> None:
    training.save(10)
    publication_id = training.publish(10)
    training.save(20)
    assert training.steps() == [20, 10]

    assert training.ring(publication_id).status == "succeeded"

    training.save(30)
    assert training.steps() == [30]


def test_a_checkpoint_that_is_gone_ends_its_publication(training: Training) -> None:
    training.save(10)
    publication_id = training.publish(10)
    with training.tenant_db.database.transaction() as conn:
        conn.execute("DELETE FROM checkpoints WHERE run_id = %s", (training.claim.run_id,))

    row = training.ring(publication_id)

    assert row.status == "failed"
    assert row.error is not None
    assert (row.error["code"], row.error["retryable"]) == ("checkpoint_gone", False)


def test_what_cannot_be_used_is_refused_at_the_door(training: Training) -> None:
    training.save(10)
    with pytest.raises(InvalidRequestError) as caught:
        training.publish(11)
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.code) == ("/checkpoint_step", "no_checkpoint")
    with pytest.raises(InvalidRequestError, match="no result"):
        training.publish(None)
    with training.tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE run_documents SET plan = jsonb_set(plan, '{identity,adapter}', 'null')"
        )
    with pytest.raises(InvalidRequestError) as caught:
        training.publish(10)
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.code) == ("/checkpoint_step", "refused")
    assert "Publish the result" in problem.message


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
