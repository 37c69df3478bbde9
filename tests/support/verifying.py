"""The result of a dataset's verification, without looking at its files."""

from collections.abc import Sequence

from services.domain.errors import Problem
from services.store import verification
from services.store.database import Connection
from services.store.datasets import FileFacts


def end_verification(
    conn: Connection,
    tenant_id: str,
    dataset_id: str,
    *,
    facts: Sequence[FileFacts] = (),
    problems: Sequence[Problem] = (),
) -> None:
    """End it as a builder would that found this: ready, or rejected where there are problems."""
    work = verification.take(conn, tenant_id, dataset_id)
    assert work is not None
    files = verification.next_files(conn, work, limit=10_000)
    recorded = verification.record(conn, work, files, facts, problems)
    assert recorded is not None
    assert verification.finish(conn, recorded) is not None
