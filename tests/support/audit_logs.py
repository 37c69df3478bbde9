"""Audit logs for tests: recorded, made old, verified."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from services.api.audit_log.checking import verify_part
from services.api.audit_log.shapes import AuditVerification
from services.domain.audit import Author, hash_of
from services.objects.folder_store import FolderStore
from services.objects.signing import UrlSigner
from services.store import audit
from tests.support.runs import TenantDatabase

KEY = Author(kind="key", id="key_1", member_id="mem_1", client="192.0.2.7")


def folder_store(folder: Path) -> FolderStore:
    signer = UrlSigner(api_url="http://localhost", signing_key=b"k" * 16)
    return FolderStore(folder / "objects", signer)


def record(ada: TenantDatabase, *actions: str) -> None:
    for action in actions:
        with ada.database.transaction() as conn:
            audit.record(conn, ada.tenant_id, KEY, action, f"run_{action}", data={"of": action})


def age(ada: TenantDatabase, seqs: range, days: int) -> None:
    """Make events old, as if they had been recorded then: all hashes after them are made anew."""
    with ada.database.transaction() as conn:
        events = audit.chain(conn, ada.tenant_id, 0, 1000)
        before = events[0].hash_before
        for event in events:
            at = event.created_at - timedelta(days=days if event.seq in seqs else 0)
            aged = replace(event, created_at=at, hash_before=before)
            before = hash_of(aged)
            conn.execute(
                "UPDATE audit_events SET created_at = %s, hash_before = %s, hash = %s"
                " WHERE tenant_id = %s AND seq = %s",
                (at, aged.hash_before, before, ada.tenant_id, event.seq),
            )


def verify(
    ada: TenantDatabase, objects: FolderStore, after: int | None = None
) -> AuditVerification:
    return verify_part(ada.database.transaction, objects, ada.tenant_id, after)


def first_misfit(ada: TenantDatabase, objects: FolderStore) -> tuple[int, str]:
    misfit = verify(ada, objects).misfit
    assert misfit is not None
    return misfit.seq, misfit.kind
