"""Runs that ended well, with files in the object store, though nothing was trained."""

import hashlib
import json
from pathlib import Path

from services.domain.ledger import Claim, StoredCheckpoint
from services.objects.folders import put_folder
from services.objects.keys import checkpoint_prefix, result_prefix
from services.objects.port import ObjectStore
from tests.support.runs import TenantDatabase


def finish(tenant_db: TenantDatabase, claim: Claim, store: ObjectStore, folder: Path) -> None:
    """Commit checkpoints at the steps 10 and 20, and a result, from files in ``folder``."""
    scope = (claim.tenant_id, claim.run_id, claim.fence)
    state = _closed_folder(folder / "state", {"state.safetensors": b"weights" * 1000})
    result = _closed_folder(folder / "result", {"card.json": b"{}", "adapter.safetensors": b"a"})
    for step in (10, 20):
        files = put_folder(store, checkpoint_prefix(*scope, step), state)
        checkpoint = StoredCheckpoint(step=step, files=files)
        tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint)
    files = put_folder(store, result_prefix(*scope), result)
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, files, step=20)


def _closed_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder closed by a manifest, as training writes it."""
    folder.mkdir()
    facts = {}
    for name, body in files.items():
        (folder / name).write_bytes(body)
        facts[name] = {"size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({"version": 1, "files": facts}))
    return folder
