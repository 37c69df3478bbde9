"""A run that trains and whose checkpoints are published, with a publisher in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from services.domain.ids import new_id
from services.domain.ledger import Claim, StoredCheckpoint
from services.objects.folder_store import FolderStore
from services.objects.folders import put_folder
from services.objects.keys import checkpoint_prefix, result_prefix
from services.objects.signing import UrlSigner
from services.results.publish import Publisher
from services.results.targets.folder import FolderTarget
from services.results.targets.port import PublicationTarget
from services.store import publications, runs
from services.store.database import Database
from services.store.publications import Publication, PublicationWork
from services.workers.scratch import Scratch
from tests.support.finished_runs import write_result
from tests.support.runs import TenantDatabase
from tests.unit.config_examples import import_small
from trainer_core.checkpoint.identity import CheckpointIdentity
from trainer_core.checkpoint.write import CheckpointFacts, TrainedTensors, write_checkpoint
from trainer_core.config.plan import LokrAdapter, Plan


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
