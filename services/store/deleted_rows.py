"""The rows of what is deleted: stopped first, then deleted in bounded steps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from psycopg.sql import SQL, Composable, Identifier

from services.domain.errors import IllegalTransitionError
from services.store import run_control
from services.store.database import Connection
from services.store.deletions import Deletion, Kind

_ROWS_A_STEP: Final = 2000

_OF_RUN: Final = (
    "run_logs",
    "run_samples",
    "run_previews",
    "events",
    "checkpoints",
    "attempts",
    "run_shards",
    "publications",
    "metric_relays",
    "run_documents",
    "runs",
)
_OF_DATASET: Final = ("dataset_files", "dataset_imports", "datasets")
_OF_TENANT: Final = (
    "cache_shards",
    "unusable_entries",
    "batches",
    "webhook_deliveries",
    "webhooks",
    "secrets",
    "api_keys",
    "members",
    "idempotency_keys",
    "tenant_usage",
    "quotas",
    "tenant_storage",
    "rate_buckets",
    "audit_events",
)
"""What is left when the runs and datasets are deleted.

What stays: the tenant's id without its name, what it used in which month, and this deletion.
"""

_OPEN_RUNS: Final = """
SELECT run_id FROM runs
WHERE tenant_id = %s AND status NOT IN ('succeeded', 'failed', 'canceled') ORDER BY run_id LIMIT %s
"""


def cancel_open_runs(conn: Connection, tenant_id: str, limit: int) -> int:
    """Cancel some runs that are not over; returns how many there were, at most ``limit``."""
    found = [row[0] for row in conn.execute(_OPEN_RUNS, (tenant_id, limit))]
    for run_id in found:
        try:
            run_control.cancel(conn, tenant_id, run_id, now=True)
        except IllegalTransitionError:  # it ended meanwhile
            continue
    return len(found)


# A pending one is not claimed any more. One that runs ends by itself, or its lease does.
_END_PUBLICATIONS: Final = """
UPDATE publications SET status = 'failed', ring_after = NULL, updated_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND (%(run_id)s::text IS NULL OR run_id = %(run_id)s)
    AND (status = 'pending' OR (status = 'running' AND lease_until < clock_timestamp()))
"""
_IS_PUBLISHED: Final = """
SELECT EXISTS (
    SELECT FROM publications WHERE tenant_id = %(tenant_id)s AND status = 'running'
        AND (%(run_id)s::text IS NULL OR run_id = %(run_id)s))
"""
# One that nobody holds is not claimed any more.
_IS_RELAYED: Final = """
SELECT EXISTS (
    SELECT FROM metric_relays
    WHERE tenant_id = %(tenant_id)s AND lease_until > clock_timestamp()
        AND (%(run_id)s::text IS NULL OR run_id = %(run_id)s))
"""
_IS_VERIFIED: Final = """
SELECT EXISTS (
    SELECT FROM datasets WHERE tenant_id = %(tenant_id)s AND lease_until > clock_timestamp()
        AND (%(dataset_id)s::text IS NULL OR dataset_id = %(dataset_id)s))
"""
_IS_BUILT: Final = """
SELECT EXISTS (
    SELECT FROM cache_shards WHERE tenant_id = %(tenant_id)s AND lease_until > clock_timestamp())
"""
_WAITS: Final[dict[Kind, tuple[tuple[str, str], ...]]] = {
    "run": (
        ("a publication to end", _IS_PUBLISHED),
        ("the relay of its metrics to pause", _IS_RELAYED),
    ),
    "dataset": (("its verification to end", _IS_VERIFIED),),
    "tenant": (
        ("a publication to end", _IS_PUBLISHED),
        ("the relay of metrics to pause", _IS_RELAYED),
        ("the verification of a dataset to end", _IS_VERIFIED),
        ("a cache shard to be built", _IS_BUILT),
    ),
}


def at_work(conn: Connection, deletion: Deletion) -> str | None:
    """What still works with the data, and has to end first; None where nothing does."""
    facts = _facts(deletion)
    if deletion.kind != "dataset":
        conn.execute(_END_PUBLICATIONS, facts)
    for reason, query in _WAITS[deletion.kind]:
        if conn.execute(query, facts).fetchone() == (True,):
            return reason
    return None


# A worker that was cut off may write until the time at which its run is swept. Who had the
# addresses of uploads may use them for an hour, and an open dataset's are asked for again and
# again, which is noted once an hour.
_LATE: Final = """
SELECT extract(epoch FROM max(until) - clock_timestamp())::double precision FROM (
    SELECT sweep_after AS until FROM runs
    WHERE tenant_id = %(tenant_id)s AND (%(run_id)s::text IS NULL OR run_id = %(run_id)s)
        AND %(dataset_id)s::text IS NULL
    UNION ALL
    SELECT updated_at + make_interval(hours => CASE WHEN num_files IS NULL THEN 2 ELSE 1 END)
    FROM datasets
    WHERE tenant_id = %(tenant_id)s AND %(run_id)s::text IS NULL
        AND (%(dataset_id)s::text IS NULL OR dataset_id = %(dataset_id)s)
) AS written
"""


def late_writes_s(conn: Connection, deletion: Deletion) -> float:
    """Seconds for which somebody may still write objects; 0 where nobody can."""
    row = conn.execute(_LATE, _facts(deletion)).fetchone()
    return 0.0 if row is None or row[0] is None else max(0.0, row[0])


# With those of runs that the tenant deleted before.
_PUBLISHED: Final = """
SELECT 'publication', publication_id, location FROM publications
WHERE tenant_id = %(tenant_id)s AND (%(run_id)s::text IS NULL OR run_id = %(run_id)s)
    AND location IS NOT NULL AND target ->> 'kind' <> 'folder'
UNION
SELECT 'metrics', run_id, url FROM metric_relays
WHERE tenant_id = %(tenant_id)s AND (%(run_id)s::text IS NULL OR run_id = %(run_id)s)
    AND url IS NOT NULL
UNION
SELECT kept ->> 'what', kept ->> 'id', kept ->> 'place'
FROM deletions, jsonb_array_elements(report -> 'kept') AS kept
WHERE tenant_id = %(tenant_id)s AND %(run_id)s::text IS NULL
ORDER BY 2, 1
"""


def published(conn: Connection, deletion: Deletion) -> list[tuple[str, str, str]]:
    """What of a run or a tenant is elsewhere and stays there.

    Each with its kind (``publication``, or ``metrics`` of a run), id and place.
    """
    return [(row[0], row[1], row[2]) for row in conn.execute(_PUBLISHED, _facts(deletion))]


_FORGET_PARENT: Final = """
UPDATE runs SET parent_run_id = NULL WHERE tenant_id = %s AND parent_run_id = %s
"""


def delete_some(conn: Connection, deletion: Deletion) -> Counter[str]:
    """Delete some of the rows; returns how many of each table, nothing where all are deleted."""
    match deletion.kind:
        case "run":
            return _of_run(conn, deletion.tenant_id, deletion.target)
        case "dataset":
            return _of_dataset(conn, deletion.tenant_id, deletion.target)
        case "tenant":
            return _of_tenant(conn, deletion)


def _of_run(conn: Connection, tenant_id: str, run_id: str) -> Counter[str]:
    is_run = SQL("tenant_id = %(tenant_id)s AND run_id = %(run_id)s")
    facts = {"tenant_id": tenant_id, "run_id": run_id}
    conn.execute(_FORGET_PARENT, (tenant_id, run_id))
    return _delete(conn, _OF_RUN, is_run, facts)


def _of_dataset(conn: Connection, tenant_id: str, dataset_id: str) -> Counter[str]:
    is_dataset = SQL("tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s")
    facts = {"tenant_id": tenant_id, "dataset_id": dataset_id}
    return _delete(conn, _OF_DATASET, is_dataset, facts)


def delete_files(conn: Connection, deletion: Deletion, contents: list[str]) -> Counter[str]:
    """Delete the rows of a dataset's files with these SHA-256."""
    is_file = SQL("""
        tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND sha256 = ANY(%(contents)s)""")
    facts = {**_facts(deletion), "contents": contents}
    return _delete(conn, ("dataset_files",), is_file, facts)


_CONTENTS: Final = """
SELECT count(DISTINCT sha256) FROM dataset_files WHERE tenant_id = %s AND dataset_id = %s
"""


def num_contents(conn: Connection, deletion: Deletion) -> int:
    """How many different files a dataset still lists."""
    row = conn.execute(_CONTENTS, (deletion.tenant_id, deletion.target)).fetchone()
    assert row is not None
    return int(row[0])


_ONE_RUN: Final = "SELECT run_id FROM runs WHERE tenant_id = %s ORDER BY run_id LIMIT 1"
_ONE_DATASET: Final = """
SELECT dataset_id FROM datasets WHERE tenant_id = %s ORDER BY dataset_id LIMIT 1
"""


# A key that another one names could not be deleted before that one.
_FORGET_REPLACEMENTS: Final = """
UPDATE api_keys SET replaced_by = NULL WHERE tenant_id = %s AND replaced_by IS NOT NULL
"""


def _of_tenant(conn: Connection, deletion: Deletion) -> Counter[str]:
    tenant_id = deletion.tenant_id
    if row := conn.execute(_ONE_RUN, (tenant_id,)).fetchone():
        return _of_run(conn, tenant_id, row[0])
    if row := conn.execute(_ONE_DATASET, (tenant_id,)).fetchone():
        return _of_dataset(conn, tenant_id, row[0])
    conn.execute(_FORGET_REPLACEMENTS, (tenant_id,))
    facts = {"tenant_id": tenant_id, "deletion_id": deletion.deletion_id}
    deleted = _delete(conn, _OF_TENANT, SQL("tenant_id = %(tenant_id)s"), facts)
    if deleted.total() < _ROWS_A_STEP:
        others = SQL("tenant_id = %(tenant_id)s AND deletion_id <> %(deletion_id)s")
        deleted += _delete(conn, ("deletions",), others, facts)
    return deleted


_DELETE: Final = SQL("""
DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE {where} LIMIT %(limit)s))
""")


def _delete(
    conn: Connection, tables: Sequence[str], where: Composable, facts: Mapping[str, Any]
) -> Counter[str]:
    """Delete from one table after the other, until so many rows are deleted that it is enough."""
    deleted: Counter[str] = Counter()
    for table in tables:
        limit = _ROWS_A_STEP - deleted.total()
        query = _DELETE.format(table=Identifier(table), where=where)
        count = conn.execute(query, {**facts, "limit": limit}).rowcount
        if count:
            deleted[table] = count
        if count == limit:
            break
    return deleted


def forget_cache(conn: Connection, tenant_id: str) -> Counter[str]:
    """Delete some rows of a tenant's cache; no builder makes its shards any more."""
    is_tenant = SQL("tenant_id = %(tenant_id)s")
    return _delete(conn, ("run_shards", "cache_shards"), is_tenant, {"tenant_id": tenant_id})


_FORGET_NAME: Final = "UPDATE tenants SET name = '', request_key = NULL WHERE tenant_id = %s"


def forget_name(conn: Connection, tenant_id: str) -> None:
    """The tenant's row stays, for its months of usage; without its name."""
    conn.execute(_FORGET_NAME, (tenant_id,))


def _facts(deletion: Deletion) -> dict[str, str | None]:
    return {
        "tenant_id": deletion.tenant_id,
        "run_id": deletion.target if deletion.kind == "run" else None,
        "dataset_id": deletion.target if deletion.kind == "dataset" else None,
    }
