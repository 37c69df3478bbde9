"""Take a cache shard away that nobody needs: its row, then its objects, then its row's end."""

from collections.abc import Callable
from datetime import timedelta

from services.objects.keys import shard_prefix
from services.objects.port import ObjectStore
from services.results.deleted_objects import delete_objects
from services.store import shard_removal
from services.store.database import Connection, Database
from services.store.shard_removal import Refused, Rule, Shard, Taken
from trainer_core.faultpoints import fault_point

Objects = list[tuple[str, int]]
"""Key and size in bytes of each."""


def remove_shard(
    database: Database,
    objects: ObjectStore,
    shard: Shard,
    rule: Rule,
    value: str | float,
    *,
    lease: timedelta,
    on_taken: Callable[[Connection, Objects], object] = lambda *_: None,
) -> Refused | None:
    """Delete the shard unless a run that counts needs it; None where it is gone.

    May be killed anywhere and called again, after the lease.

    Args:
        on_taken: called in the transaction that takes it away, with the objects of a shard that was
            built; not again where the one before was killed.

    Raises ObjectStoreError, DatabaseDownError or DatabaseBusyError.
    """
    prefix = shard_prefix(shard.tenant_id, shard.digest)
    stored = [(key, objects.size(key) or 0) for key in objects.list_keys(prefix)]
    with database.transaction() as conn:
        taken = shard_removal.take(conn, shard, rule, value, lease=lease)
        if isinstance(taken, Taken) and taken.was_done:
            on_taken(conn, stored)
    if not isinstance(taken, Taken):
        return taken
    fault_point("deletion.shard_taken")
    delete_objects(objects, (key for key, _ in stored))
    fault_point("deletion.shard_emptied")
    with database.transaction() as conn:
        shard_removal.drop(conn, taken, rule, value)
    return None
