"""Deleting by age, with every sweep: idempotency keys, events, logs, cache shards, the audit log.

Every call does a bounded part; the next sweep goes on.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Final

import structlog

from services.domain.audit_chain import Anchor
from services.domain.retention import DELIVERIES, IDEMPOTENCY_KEYS, Retention
from services.objects.audit_anchors import read_anchors, write_anchor, write_beginning
from services.objects.errors import ObjectStoreRefusedError
from services.objects.port import ObjectStore
from services.results.portions import ROWS_A_PORTION, delete_in_portions, in_portions
from services.results.repeating import IsStopping, never
from services.results.shard_removal import remove_shard
from services.store import (
    audit,
    audit_losses,
    restore_guard,
    retention,
    shard_removal,
    unusable_entries,
    webhook_retention,
)
from services.store.database import Connection, Database
from services.store.shard_removal import Refused, Rule

log = structlog.get_logger(__name__)

ANCHOR_EVERY: Final = timedelta(days=1)
_LOOK_EVERY: Final = timedelta(days=1)
"""How often a shard that is needed is looked at again."""
_RUNS: Final = 50
_SHARDS: Final = 50
_TENANTS: Final = 50


def retention_of(
    database: Database,
    objects: ObjectStore,
    kept: Retention,
    *,
    lease: timedelta,
    is_stopping: IsStopping = never,
) -> dict[str, Callable[[], object]]:
    """What to do with every sweep, by name."""
    return {
        "idempotency_keys": lambda: delete_idempotency_keys(database, is_stopping),
        "old_of_webhooks": lambda: delete_old_of_webhooks(database, is_stopping),
        "old_events": lambda: thin_events(database, kept.events, is_stopping),
        "unused_shards": lambda: delete_unused_shards(
            database, objects, kept.cache, lease=lease, is_stopping=is_stopping
        ),
        "unusable_entries": lambda: forget_unusable(database, kept.cache, is_stopping),
        "audit_anchors": lambda: anchor_audit_logs(database, objects, is_stopping=is_stopping),
        "old_audit_events": lambda: trim_audit_logs(database, objects, kept.audit, is_stopping),
    }


def delete_idempotency_keys(database: Database, is_stopping: IsStopping = never) -> int:
    """Delete keys that no longer count; returns how many."""
    return delete_in_portions(
        database,
        lambda conn: retention.delete_idempotency_keys(
            conn, age=IDEMPOTENCY_KEYS, limit=ROWS_A_PORTION
        ),
        is_stopping,
    )


def delete_old_of_webhooks(database: Database, is_stopping: IsStopping = never) -> int:
    """Delete old deliveries, secrets that were replaced, and deleted webhooks; returns how many."""
    parts: list[Callable[[Connection], int]] = [
        lambda conn: webhook_retention.delete_old_secrets(conn, limit=ROWS_A_PORTION),
        lambda conn: webhook_retention.delete_of_deleted(conn, limit=ROWS_A_PORTION),
        lambda conn: webhook_retention.delete_old_deliveries(
            conn, age=DELIVERIES, limit=ROWS_A_PORTION
        ),
    ]
    return sum(delete_in_portions(database, part, is_stopping) for part in parts)


def thin_events(database: Database, age: timedelta, is_stopping: IsStopping = never) -> int:
    """Delete step events and logs of runs that ended so long ago; returns how many rows."""
    with database.transaction() as conn:
        runs = retention.old_runs(conn, age=age, limit=_RUNS)
    num_deleted = 0
    for run in runs:
        thin = partial(retention.thin, run=run, limit=ROWS_A_PORTION)
        num_deleted += delete_in_portions(database, thin, is_stopping)
    if num_deleted:
        log.info("events_thinned", num_runs=len(runs), num_rows=num_deleted)
    return num_deleted


def delete_unused_shards(
    database: Database,
    objects: ObjectStore,
    age: timedelta,
    *,
    lease: timedelta,
    is_stopping: IsStopping = never,
) -> int:
    """Delete cache shards that no run needed for so long; returns how many."""
    with database.transaction() as conn:
        found = shard_removal.due(conn, age=age, limit=_SHARDS)
    num_deleted = 0
    for shard in found:
        if is_stopping():
            break
        try:
            outcome = remove_shard(
                database, objects, shard, Rule.AGE, age.total_seconds(), lease=lease
            )
        except ObjectStoreRefusedError as error:  # such as an object lock; others can go
            log.warning("shard_not_deleted", digest=shard.digest, reason=str(error))
            outcome = Refused.HELD
        num_deleted += outcome is None
        if outcome is not None:
            with database.transaction() as conn:
                shard_removal.look_again(conn, shard, after=_LOOK_EVERY)
    if num_deleted:
        log.info("shards_deleted", num_shards=num_deleted)
    return num_deleted


def forget_unusable(database: Database, age: timedelta, is_stopping: IsStopping = never) -> int:
    """Forget which entries could not be encoded so long ago; returns how many."""
    return delete_in_portions(
        database,
        lambda conn: unusable_entries.delete_old(conn, age=age, limit=ROWS_A_PORTION),
        is_stopping,
    )


def anchor_audit_logs(
    database: Database,
    objects: ObjectStore,
    *,
    every: timedelta = ANCHOR_EVERY,
    is_stopping: IsStopping = never,
) -> int:
    """Store the newest hash of each audit log that grew; returns how many."""
    with database.transaction() as conn:
        service_id = restore_guard.lock_guard(conn).service_id
        newest = audit.unanchored(conn, every=every, limit=_TENANTS)
    num_anchored = 0
    for event in newest:
        if is_stopping():
            break
        anchor = Anchor(seq=event.seq, hash=event.hash)
        write_anchor(objects, service_id, event.tenant_id, anchor, event.read_at)
        with database.transaction() as conn:
            audit.mark_anchored(conn, event)
        num_anchored += 1
    return num_anchored


def trim_audit_logs(
    database: Database, objects: ObjectStore, age: timedelta, is_stopping: IsStopping = never
) -> int:
    """Delete old events of audit logs, up to an anchored one that stays; returns how many."""
    with database.transaction() as conn:
        service_id = restore_guard.lock_guard(conn).service_id
        tenant_ids = audit.with_old_events(conn, after=age, limit=_TENANTS)
    num_deleted = 0
    for tenant_id in tenant_ids:
        if is_stopping():
            break
        anchors = list(read_anchors(objects, service_id, tenant_id))
        with database.transaction() as conn:
            losses = audit_losses.all_acknowledged(conn, tenant_id)
        # An event that acknowledges a loss stays until the log begins after the lost numbers.
        last_lost = max((each.loss.last_seq for each in losses), default=0)
        anchors = [anchor for anchor in anchors if anchor.seq > last_lost]
        trim = partial(
            _trim,
            database,
            objects,
            service_id=service_id,
            tenant_id=tenant_id,
            anchors=anchors,
            age=age,
        )
        num_deleted += in_portions(trim, is_stopping)
    return num_deleted


def _trim(
    database: Database,
    objects: ObjectStore,
    *,
    service_id: str,
    tenant_id: str,
    anchors: Sequence[Anchor],
    age: timedelta,
) -> int:
    """Delete the events before the next anchored one that is old enough; returns how many."""
    with database.transaction() as conn:
        beginning = audit.next_beginning(conn, tenant_id, anchors, after=age)
    if beginning is None:
        return 0
    write_beginning(objects, service_id, tenant_id, beginning)
    with database.transaction() as conn:
        return audit.trim(conn, tenant_id, beginning)
