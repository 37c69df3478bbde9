"""Runs that ended well, with files in the object store, though nothing was trained."""

import hashlib
import json
import os
from pathlib import Path

from services.domain.ledger import Claim, StoredCheckpoint
from services.objects.folders import put_folder
from services.objects.keys import checkpoint_prefix, result_prefix
from services.objects.port import ObjectStore
from tests.support.runs import TenantDatabase, plan
from tests.unit.config_examples import import_small
from trainer_core.export.card_facts import card_facts

_LOSS = {"mean": 0.5, "held_out_mean": 0.6}


def finish(tenant_db: TenantDatabase, claim: Claim, store: ObjectStore, folder: Path) -> None:
    """Commit checkpoints at the steps 10 and 20, and a result, from files in ``folder``."""
    scope = (claim.tenant_id, claim.run_id, claim.fence)
    state = closed_folder(folder / "state", {"state.safetensors": b"weights" * 1000})
    result = closed_folder(folder / "result", {"card.json": b"{}", "adapter.safetensors": b"a"})
    for step in (10, 20):
        commit_checkpoint(tenant_db, claim, store, state, step)
    files = put_folder(store, result_prefix(*scope), result)
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, files, step=20)


def commit_checkpoint(
    tenant_db: TenantDatabase, claim: Claim, store: ObjectStore, folder: Path, step: int
) -> None:
    """Store a folder as the checkpoint of a step, and commit it."""
    prefix = checkpoint_prefix(claim.tenant_id, claim.run_id, claim.fence, step)
    checkpoint = StoredCheckpoint(step=step, files=put_folder(store, prefix, folder))
    tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint)


def closed_folder(
    folder: Path, files: dict[str, bytes], adapter_files: dict[str, bytes] | None = None
) -> Path:
    """A folder closed by a manifest, as training writes it."""
    folder.mkdir()

    def written(files: dict[str, bytes]) -> dict[str, object]:
        facts: dict[str, object] = {}
        for name, body in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(body)
            facts[name] = {"size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        return facts

    manifest = {"version": 1, "files": written(files)}
    if adapter_files:
        manifest["scalars"] = {"adapter_files": written(adapter_files)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def commit_whole_result(tenant_db: TenantDatabase, store: ObjectStore, folder: Path) -> str:
    """End a new run with a result that can be published; returns the run's id."""
    claim = tenant_db.held(plan=plan())
    write_result(folder)
    key_prefix = result_prefix(claim.tenant_id, claim.run_id, claim.fence)
    files = put_folder(store, key_prefix, folder)
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, files, step=10)
    return claim.run_id


def write_result(folder: Path) -> None:
    """A result as training writes it: weights, config, sample, facts for the card, manifest."""
    (folder / "samples").mkdir(parents=True)
    (folder / "pytorch_lora_weights.safetensors").write_bytes(os.urandom(50_000))
    (folder / "lycoris_config.json").write_text("{}")
    (folder / "samples" / "0.png").write_bytes(os.urandom(2_000))
    facts = card_facts(
        import_small().plan,
        step=10,
        loss_before=_LOSS,
        loss_after=_LOSS,
        trainable_parameters=1000,
        trainable_modules=4,
        weights="live",
        matmul="no_change",
    )
    (folder / "card.json").write_text(json.dumps(facts))
    files = {
        str(path.relative_to(folder)): {
            "size_bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in folder.rglob("*")
        if path.is_file()
    }
    manifest = {"version": 1, "kind": "result", "step": 10, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
