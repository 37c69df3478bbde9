"""Deleting by age, with every sweep: idempotency keys, events, logs, cache shards, the audit log.

Every call does a bounded part; the next sweep goes on.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

import structlog

from services.domain.audit_chain import Anchor
from services.domain.retention import DELIVERIES, IDEMPOTENCY_KEYS, Retention
from services.objects.audit_anchors import read_anchors, write_anchor, write_beginning
from services.objects.errors import ObjectStoreRefusedError
from services.objects.port import ObjectStore
from services.results.shard_removal import remove_shard
from services.store import (
    audit,
    audit_losses,
    restore_guard,
    retention,
    shard_removal,
    webhook_retention,
)
from services.store.database import Connection, Database
from services.store.shard_removal import Refused, Rule

log = structlog.get_logger(__name__)

ANCHOR_EVERY: Final = timedelta(days=1)
_LOOK_EVERY: Final = timedelta(days=1)
"""How often a shard that is needed is looked at again."""
_ROWS_A_STEP: Final = 2000
_STEPS: Final = 20
_RUNS: Final = 50
_SHARDS: Final = 50
_TENANTS: Final = 50


def retention_of(
    database: Database, objects: ObjectStore, kept: Retention, *, lease: timedelta
) -> list[Callable[[], object]]:
    """What to do with every sweep."""
    return [
        lambda: delete_idempotency_keys(database),
        lambda: delete_old_of_webhooks(database),
        lambda: thin_events(database, kept.events),
        lambda: delete_unused_shards(database, objects, kept.cache, lease=lease),
        lambda: anchor_audit_logs(database, objects),
        lambda: trim_audit_logs(database, objects, kept.audit),
    ]


def delete_idempotency_keys(database: Database) -> int:
    """Delete keys that no longer count; returns how many."""
    num_deleted = 0
    for _ in range(_STEPS):
        with database.transaction() as conn:
            step = retention.delete_idempotency_keys(conn, age=IDEMPOTENCY_KEYS, limit=_ROWS_A_STEP)
        num_deleted += step
        if step < _ROWS_A_STEP:
            break
    return num_deleted


def delete_old_of_webhooks(database: Database) -> int:
    """Delete old deliveries, secrets that were replaced, and deleted webhooks; returns how many."""
    parts: list[Callable[[Connection], int]] = [
        lambda conn: webhook_retention.delete_old_secrets(conn, limit=_ROWS_A_STEP),
        lambda conn: webhook_retention.delete_of_deleted(conn, limit=_ROWS_A_STEP),
        lambda conn: webhook_retention.delete_old_deliveries(
            conn, age=DELIVERIES, limit=_ROWS_A_STEP
        ),
    ]
    num_deleted = 0
    for part in parts:
        for _ in range(_STEPS):
            with database.transaction() as conn:
                step = part(conn)
            num_deleted += step
            if step == 0:
                break
    return num_deleted


def thin_events(database: Database, age: timedelta) -> int:
    """Delete step events and logs of runs that ended so long ago; returns how many rows."""
    with database.transaction() as conn:
        runs = retention.old_runs(conn, age=age, limit=_RUNS)
    num_deleted = 0
    for run in runs:
        for _ in range(_STEPS):
            with database.transaction() as conn:
                step = retention.thin(conn, run, limit=_ROWS_A_STEP)
            num_deleted += step
            if step == 0:
                break
    if num_deleted:
        log.info("events_thinned", num_runs=len(runs), num_rows=num_deleted)
    return num_deleted


def delete_unused_shards(
    database: Database, objects: ObjectStore, age: timedelta, *, lease: timedelta
) -> int:
    """Delete cache shards that no run needed for so long; returns how many."""
    with database.transaction() as conn:
        found = shard_removal.due(conn, age=age, limit=_SHARDS)
    num_deleted = 0
    for shard in found:
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


def anchor_audit_logs(
    database: Database, objects: ObjectStore, *, every: timedelta = ANCHOR_EVERY
) -> int:
    """Store the newest hash of each audit log that grew; returns how many."""
    with database.transaction() as conn:
        service_id = restore_guard.lock_guard(conn).service_id
        newest = audit.unanchored(conn, every=every, limit=_TENANTS)
    for event in newest:
        anchor = Anchor(seq=event.seq, hash=event.hash)
        write_anchor(objects, service_id, event.tenant_id, anchor, event.read_at)
        with database.transaction() as conn:
            audit.mark_anchored(conn, event)
    return len(newest)


def trim_audit_logs(database: Database, objects: ObjectStore, age: timedelta) -> int:
    """Delete old events of audit logs, up to an anchored one that stays; returns how many."""
    with database.transaction() as conn:
        service_id = restore_guard.lock_guard(conn).service_id
        tenant_ids = audit.with_old_events(conn, after=age, limit=_TENANTS)
    num_deleted = 0
    for tenant_id in tenant_ids:
        anchors = list(read_anchors(objects, service_id, tenant_id))
        with database.transaction() as conn:
            losses = audit_losses.all_acknowledged(conn, tenant_id)
        # An event that acknowledges a loss stays until the log begins after the lost numbers.
        last_lost = max((each.loss.last_seq for each in losses), default=0)
        anchors = [anchor for anchor in anchors if anchor.seq > last_lost]
        for _ in range(_STEPS):
            with database.transaction() as conn:
                beginning = audit.next_beginning(conn, tenant_id, anchors, after=age)
            if beginning is None:
                break
            write_beginning(objects, service_id, tenant_id, beginning)
            with database.transaction() as conn:
                num_deleted += audit.trim(conn, tenant_id, beginning)
    return num_deleted
