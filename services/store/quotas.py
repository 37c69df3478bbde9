"""Quotas: a tenant's limits, what it uses, and the check in the transaction that uses more."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from psycopg.rows import dict_row
from psycopg.sql import SQL, Composable, Composed, Identifier, Placeholder

from services.domain.errors import QuotaExceededError
from services.domain.quotas import QUOTA_NAMES, Quotas
from services.store import tenants
from services.store.database import WORK, Connection, notify
from services.store.quota_waits import IS_OFFERED, IS_THIS_MONTH, UNCHARGED_S

# What is used of each quota by the tenant of the row ``tenants``.
_USED: Final = {
    "queued_runs": SQL("""(
        SELECT count(*) FROM runs WHERE runs.tenant_id = tenants.tenant_id
            AND status NOT IN ('succeeded', 'failed', 'canceled'))"""),
    "concurrent_runs": SQL("""(
        SELECT count(*) FROM runs WHERE runs.tenant_id = tenants.tenant_id
            AND status NOT IN ('succeeded', 'failed', 'canceled')
            AND (lease_until IS NOT NULL OR {is_offered}))""").format(is_offered=IS_OFFERED),
    # Seconds that were charged, and those that held attempts used since then.
    "gpu_hours": SQL("""(
        SELECT coalesce(sum(used_s), 0) / 3600 FROM (
            SELECT charged_s AS used_s FROM monthly_usage
            WHERE monthly_usage.tenant_id = tenants.tenant_id AND {is_this_month}
            UNION ALL
            SELECT {uncharged_s} FROM runs JOIN attempts USING (run_id, fence)
            WHERE runs.tenant_id = tenants.tenant_id AND lease_until IS NOT NULL
        ) AS seconds)::double precision""").format(
        is_this_month=IS_THIS_MONTH, uncharged_s=UNCHARGED_S
    ),
    "storage_bytes": SQL("""(
        SELECT coalesce(sum(stored_bytes), 0) FROM (
            SELECT size_bytes AS stored_bytes FROM datasets
            WHERE datasets.tenant_id = tenants.tenant_id
            UNION ALL
            SELECT size_bytes FROM checkpoints WHERE checkpoints.tenant_id = tenants.tenant_id
            UNION ALL
            SELECT size_bytes FROM run_samples WHERE run_samples.tenant_id = tenants.tenant_id
            UNION ALL
            SELECT size_bytes FROM run_previews JOIN runs USING (run_id, fence)
            WHERE run_previews.tenant_id = tenants.tenant_id AND lease_until IS NOT NULL
            UNION ALL
            SELECT result_size_bytes FROM runs
            WHERE runs.tenant_id = tenants.tenant_id AND result_size_bytes IS NOT NULL
        ) AS stored)::bigint"""),
    "uploads": SQL("""(
        SELECT count(*) FROM datasets
        WHERE datasets.tenant_id = tenants.tenant_id AND status = 'uploading')"""),
}
_FROM: Final = SQL("""
FROM tenants LEFT JOIN quotas USING (tenant_id) WHERE tenants.tenant_id = %(tenant_id)s
""")


def _limits(names: Sequence[str]) -> Composed:
    """The tenant's limit of each quota, in columns of the same name."""
    each = SQL("coalesce(quotas.{0}, {1}) AS {0}")
    return SQL(", ").join(each.format(Identifier(name), Placeholder(name)) for name in names)


def _used(used: Mapping[str, Composable]) -> Composed:
    """What is used of each quota, in columns ``<quota>_used``."""
    each = SQL("{} AS {}")
    return SQL(", ").join(
        each.format(sql, Identifier(f"{name}_used")) for name, sql in used.items()
    )


def _limits_and_use(used: Mapping[str, Composable]) -> Composed:
    return SQL("SELECT ") + _limits(list(used)) + SQL(", ") + _used(used) + _FROM


# Counting a tenant's runs, or what they store, takes milliseconds once it has thousands. So a count
# is kept for a minute. ``open_runs_at_most`` grows with each new run and does not shrink as runs
# end: while it is within the limit, the runs are. New runs store nothing themselves.
_ADD_TO_COUNT: Final = SQL("""
UPDATE tenant_storage SET open_runs_at_most = open_runs_at_most + %(added)s
FROM tenants LEFT JOIN quotas USING (tenant_id)
WHERE tenants.tenant_id = %(tenant_id)s AND tenant_storage.tenant_id = tenants.tenant_id
    AND counted_at > clock_timestamp() - interval '1 minute'
    AND open_runs_at_most + %(added)s <= coalesce(quotas.queued_runs, %(queued_runs)s)
    AND size_bytes <= coalesce(quotas.storage_bytes, %(storage_bytes)s)
""")
_KEEP_COUNT: Final = """
INSERT INTO tenant_storage (tenant_id, size_bytes, open_runs_at_most)
VALUES (%(tenant_id)s, %(size_bytes)s, %(open_runs)s)
ON CONFLICT (tenant_id) DO UPDATE SET size_bytes = excluded.size_bytes,
    open_runs_at_most = excluded.open_runs_at_most, counted_at = clock_timestamp()
"""

_OF_A_RUN: Final = _limits_and_use({name: _USED[name] for name in ("queued_runs", "storage_bytes")})
_OF_A_DATASET: Final = _limits_and_use({name: _USED[name] for name in ("uploads", "storage_bytes")})
_OF_GROWTH: Final = _limits_and_use({"storage_bytes": _USED["storage_bytes"]})


def check_new_runs(conn: Connection, tenant_id: str, defaults: Quotas, *, added: int = 1) -> None:
    """Check the quotas after so many runs were inserted, in the same transaction.

    They count already. Thus the tenant's other requests need not wait while they are inserted.
    Raises QuotaExceededError, and NotFoundError where the tenant is being deleted; the transaction
    has to be rolled back then.
    """
    tenants.lock(conn, tenant_id)
    asked = {**asdict(defaults), "tenant_id": tenant_id, "added": added}
    if conn.execute(_ADD_TO_COUNT, asked).rowcount:
        return
    state = _read(conn, _OF_A_RUN, tenant_id, defaults)
    counted = {
        "tenant_id": tenant_id,
        "size_bytes": state["storage_bytes_used"],
        "open_runs": state["queued_runs_used"],
    }
    state["queued_runs_used"] -= added
    _check_runs(state, added=added)
    conn.execute(_KEEP_COUNT, counted)


def refusal_of_new_run(
    conn: Connection, tenant_id: str, defaults: Quotas
) -> QuotaExceededError | None:
    """What ``check_new_runs`` would raise for one run; takes no lock and writes nothing."""
    state = _read(conn, _OF_A_RUN, tenant_id, defaults)
    try:
        _check_runs(state, added=1)
    except QuotaExceededError as error:
        return error
    return None


def _check_runs(state: Mapping[str, Any], *, added: int) -> None:
    _check(state, "queued_runs", added=added)
    _check(state, "storage_bytes", added=0)


def check_new_dataset(
    conn: Connection, tenant_id: str, defaults: Quotas, *, size_bytes: int
) -> None:
    """Check the quotas after a dataset of ``size_bytes`` was inserted, in the same transaction.

    The dataset counts already. Thus the tenant's other requests need not wait while the rows of a
    long list of files are inserted. Raises QuotaExceededError; the transaction has to be rolled
    back then.
    """
    tenants.lock(conn, tenant_id)
    state = _read(conn, _OF_A_DATASET, tenant_id, defaults)
    state["uploads_used"] -= 1
    state["storage_bytes_used"] -= size_bytes
    _check(state, "uploads", added=1)
    _check(state, "storage_bytes", added=size_bytes)


def check_growth(conn: Connection, tenant_id: str, defaults: Quotas, *, size_bytes: int) -> None:
    """Check the quota of storage before a dataset that is being imported grows by ``size_bytes``.

    Raises QuotaExceededError.
    """
    state = _read(conn, _OF_GROWTH, tenant_id, defaults)
    _check(state, "storage_bytes", added=size_bytes)


def _read(conn: Connection, query: Composed, tenant_id: str, defaults: Quotas) -> dict[str, Any]:
    with conn.cursor(row_factory=dict_row) as cursor:
        state = cursor.execute(query, {**asdict(defaults), "tenant_id": tenant_id}).fetchone()
    assert state is not None
    return state


def _check(state: Mapping[str, Any], quota: str, *, added: int) -> None:
    limit, used = state[quota], state[f"{quota}_used"]
    if used + added > limit:
        raise QuotaExceededError(quota, limit=limit, used=used, added=added)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuotaState:
    """One quota of one tenant."""

    limit: float
    is_default: bool
    """Whether the limit is the service's default."""
    used: float | None
    """None for a quota of requests, which is not counted here."""


_OWN: Final = SQL(", ").join(SQL("quotas.{}").format(Identifier(name)) for name in QUOTA_NAMES)
_ALL: Final = SQL("SELECT ") + _OWN + SQL(", ") + _used(_USED) + _FROM


def read(conn: Connection, tenant_id: str, defaults: Quotas) -> dict[str, QuotaState]:
    """Every quota of an existing tenant, by name."""
    row = _read(conn, _ALL, tenant_id, defaults)
    return {
        name: QuotaState(
            limit=getattr(defaults, name) if row[name] is None else row[name],
            is_default=row[name] is None,
            used=row.get(f"{name}_used"),
        )
        for name in QUOTA_NAMES
    }


_SET: Final = SQL("""
INSERT INTO quotas (tenant_id, {names}) VALUES (%(tenant_id)s, {values})
ON CONFLICT (tenant_id) DO UPDATE SET {changes}
""")


def change(conn: Connection, tenant_id: str, limits: Mapping[str, float | None]) -> None:
    """Set some of a tenant's limits; None brings the service's default back. Applies at once."""
    names = [name for name in QUOTA_NAMES if name in limits]
    query = _SET.format(
        names=SQL(", ").join(map(Identifier, names)),
        values=SQL(", ").join(map(Placeholder, names)),
        changes=SQL(", ").join(SQL("{0} = excluded.{0}").format(Identifier(n)) for n in names),
    )
    conn.execute(query, {**limits, "tenant_id": tenant_id})
    notify(conn, WORK)
