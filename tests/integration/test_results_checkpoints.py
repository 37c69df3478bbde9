"""A checkpoint is published as an adapter with a card, as long as it is there."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from services.domain.errors import InvalidRequestError
from services.domain.ids import new_id
from services.domain.ledger import Claim, StoredCheckpoint
from services.objects.folder_store import FolderStore
from services.objects.folders import put_folder
from services.objects.keys import checkpoint_prefix
from services.objects.signing import UrlSigner
from services.results.publish import Publisher
from services.results.targets.folder import FolderTarget
from services.store import publications, runs
from services.store.database import Database
from services.store.publications import Publication
from services.workers.scratch import Scratch
from tests.support.runs import TenantDatabase
from tests.unit.config_examples import import_small
from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.write import CheckpointFacts, TrainedTensors, write_checkpoint
from trainer_core.config.plan import LokrAdapter, Plan
from trainer_core.export.origin import ADAPTER_NAME


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run that trains, and a publisher."""

    tenant_db: TenantDatabase
    objects: FolderStore
    claim: Claim
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


def plan_json(plan: Plan) -> dict[str, Any]:
    body = plan.model_dump(mode="json")
    body["operation"]["checkpoints_total_limit"] = 1
    return body


@pytest.fixture
def training(database: Database, tmp_path: Path) -> Iterator[Training]:
    objects = FolderStore(
        tmp_path / "objects", UrlSigner(api_url="http://localhost", signing_key=b"k" * 16)
    )
    tenant_db = TenantDatabase.new(database)
    plan = import_small().plan
    with Scratch(tmp_path / "scratch", new_id("wrk")) as scratch:
        yield Training(
            tenant_db=tenant_db,
            objects=objects,
            claim=tenant_db.held(plan=plan_json(plan)),
            plan=plan,
            folder=tmp_path / "checkpoints",
            publisher=Publisher(
                database=database,
                objects=objects,
                targets={"folder": FolderTarget(tmp_path / "publications")},
                scratch=scratch,
                lease=timedelta(seconds=60),
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
