"""Taking cache shards away that no run needs any more.

A shard is taken like by a builder, with a lease: meanwhile its row says that it is not built, so a
run that starts to need it waits, and has it built again. A *rule* says which runs no longer count.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.store import restore_guard
from services.store.database import WORK, Connection, columns_of, notify, seconds


class Rule(StrEnum):
    """Which runs' need of a shard does not count; it compares with ``value``."""

    RUN = "run"
    """The run of this id, which is over."""
    DATASET = "dataset"
    """Runs with the dataset of this id, which are over."""
    AGE = "age"
    """Runs that have been over for so many seconds."""


_FORGETS: Final = {
    Rule.RUN: SQL("runs.run_id = %(value)s"),
    Rule.DATASET: SQL("%(value)s IN (SELECT jsonb_path_query(runs.datasets, '$.*') #>> '{}')"),
    Rule.AGE: SQL("runs.finished_at < clock_timestamp() - make_interval(secs => %(value)s)"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A cache shard."""

    tenant_id: str
    digest: str


_OF_DELETED: Final = {
    rule: SQL("""
SELECT DISTINCT tenant_id, digest FROM runs JOIN run_shards USING (tenant_id, run_id)
WHERE runs.tenant_id = %(tenant_id)s AND {forgets} ORDER BY digest LIMIT %(limit)s
""").format(forgets=_FORGETS[rule])
    for rule in (Rule.RUN, Rule.DATASET)
}


def of_deleted(
    conn: Connection, tenant_id: str, rule: Literal[Rule.RUN, Rule.DATASET], value: str, limit: int
) -> list[Shard]:
    """Shards of the runs that the rule names."""
    facts = {"tenant_id": tenant_id, "value": value, "limit": limit}
    with conn.cursor(row_factory=class_row(Shard)) as cursor:
        return cursor.execute(_OF_DELETED[rule], facts).fetchall()


_DUE: Final = SQL("""
SELECT {columns} FROM cache_shards
WHERE (sweep_after IS NULL OR sweep_after < clock_timestamp()) AND NOT {is_restored}
    AND created_at < clock_timestamp() - make_interval(secs => %s)
ORDER BY sweep_after NULLS FIRST LIMIT %s
""").format(columns=columns_of(Shard), is_restored=restore_guard.IS_RESTORED)


def due(conn: Connection, *, age: timedelta, limit: int) -> list[Shard]:
    """Shards of this age to look at: ``take`` or ``look_again``.

    None where the database is restored.
    """
    with conn.cursor(row_factory=class_row(Shard)) as cursor:
        return cursor.execute(_DUE, (seconds(age), limit)).fetchall()


_LOOK_AGAIN: Final = """
UPDATE cache_shards SET sweep_after = clock_timestamp() + make_interval(secs => %s)
WHERE tenant_id = %s AND digest = %s
"""


def look_again(conn: Connection, shard: Shard, *, after: timedelta) -> None:
    """``due`` names it again after this time."""
    conn.execute(_LOOK_AGAIN, (seconds(after), shard.tenant_id, shard.digest))


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A shard that nobody else builds or needs until the lease ends."""

    shard: Shard
    was_done: bool
    """Whether it was built; else its objects were deleted in part, or not built yet."""
    lease_until: datetime


class Refused(StrEnum):
    """Why a shard is not taken."""

    NEEDED = "needed"
    HELD = "held"
    """A builder, or another process that takes it away, works on it."""
    GONE = "gone"


# Whoever starts to need a shard locks its row first, and keeps it locked until its commit. The
# statements after this one see what was committed before.
_LOCK: Final = """
SELECT status, coalesce(lease_until > clock_timestamp(), false), lease_until FROM cache_shards
WHERE tenant_id = %(tenant_id)s AND digest = %(digest)s FOR UPDATE
"""
_IS_NEEDED: Final = {
    rule: SQL("""
SELECT EXISTS (
    SELECT FROM run_shards JOIN runs USING (tenant_id, run_id)
    WHERE tenant_id = %(tenant_id)s AND digest = %(digest)s AND ({forgets}) IS NOT TRUE)
""").format(forgets=forgets)
    for rule, forgets in _FORGETS.items()
}
_UNLINK: Final = {
    rule: SQL("""
DELETE FROM run_shards USING runs
WHERE run_shards.tenant_id = %(tenant_id)s AND digest = %(digest)s
    AND runs.tenant_id = run_shards.tenant_id AND runs.run_id = run_shards.run_id AND {forgets}
""").format(forgets=forgets)
    for rule, forgets in _FORGETS.items()
}
_TAKE: Final = """
UPDATE cache_shards SET status = 'pending', manifest_sha256 = NULL, size_bytes = NULL,
    done_at = NULL, offered_until = NULL, error = NULL, attempts = 0,
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s),
    ring_after = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE tenant_id = %(tenant_id)s AND digest = %(digest)s
RETURNING lease_until
"""


def take(
    conn: Connection, shard: Shard, rule: Rule, value: str | float, *, lease: timedelta
) -> Taken | Refused:
    """Take the shard, unless a run that counts needs it. Delete its objects next, then ``drop``."""
    facts = _facts(shard, value)
    row = conn.execute(_LOCK, facts).fetchone()
    if row is None:
        return Refused.GONE
    status, is_held, _ = row
    if conn.execute(_IS_NEEDED[rule], facts).fetchone() == (True,):
        conn.execute(_UNLINK[rule], facts)
        return Refused.NEEDED
    if is_held:
        return Refused.HELD
    taken = conn.execute(_TAKE, {**facts, "lease_s": seconds(lease)}).fetchone()
    assert taken is not None
    return Taken(shard=shard, was_done=status == "done", lease_until=taken[0])


_IS_LINKED: Final = """
SELECT EXISTS (SELECT FROM run_shards WHERE tenant_id = %(tenant_id)s AND digest = %(digest)s)
"""
_BUILD: Final = """
UPDATE cache_shards SET lease_until = NULL, ring_after = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND digest = %(digest)s
"""
_DROP: Final = """
DELETE FROM cache_shards WHERE tenant_id = %(tenant_id)s AND digest = %(digest)s
"""


def drop(conn: Connection, taken: Taken, rule: Rule, value: str | float) -> bool:
    """Delete the row of a shard whose objects are deleted; False where it is built again.

    That is so where a run started to need it, or the lease has run out.
    """
    facts = _facts(taken.shard, value)
    row = conn.execute(_LOCK, facts).fetchone()
    if row is None or row[2] != taken.lease_until:
        return False
    conn.execute(_UNLINK[rule], facts)
    if conn.execute(_IS_LINKED, facts).fetchone() == (True,):
        conn.execute(_BUILD, facts)
        notify(conn, WORK)
        return False
    conn.execute(_DROP, facts)
    return True


def _facts(shard: Shard, value: str | float) -> dict[str, Any]:
    return {"tenant_id": shard.tenant_id, "digest": shard.digest, "value": value}
