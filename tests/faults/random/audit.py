"""What the database saw, in its own order: triggers record every write that a guard protects.

Each process connects under a name of its own (``application_name``), so the record says who wrote.
Nothing here depends on a worker's clock.
"""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

_INSTALL = """
CREATE TABLE audit (
    id      bigserial PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    app     text NOT NULL DEFAULT current_setting('application_name'),
    run_id  text NOT NULL,
    what    text NOT NULL,  -- claim, renew, release, checkpoint, result, event
    fence   bigint NOT NULL,
    step    integer NOT NULL,
    detail  text NOT NULL DEFAULT '',
    valid_s double precision -- of a release: how long the lease would have lasted
);

CREATE FUNCTION audit_run() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS $$
BEGIN
    IF new.fence <> old.fence THEN
        INSERT INTO audit (run_id, what, fence, step, valid_s)
        VALUES (new.run_id, 'claim', new.fence, new.checkpoint_step,
            extract(epoch FROM old.lease_until - clock_timestamp()));
    ELSIF old.lease_until IS NOT NULL AND new.lease_until IS NULL THEN
        INSERT INTO audit (run_id, what, fence, step, valid_s)
        VALUES (new.run_id, 'release', new.fence, new.step,
            extract(epoch FROM old.lease_until - clock_timestamp()));
    ELSIF new.lease_until IS DISTINCT FROM old.lease_until THEN
        INSERT INTO audit (run_id, what, fence, step)
        VALUES (new.run_id, 'renew', new.fence, new.step);
    END IF;
    IF new.result_key_prefix IS DISTINCT FROM old.result_key_prefix THEN
        INSERT INTO audit (run_id, what, fence, step, detail)
        VALUES (new.run_id, 'result', new.fence, new.step, new.result_key_prefix);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_run AFTER UPDATE ON runs FOR EACH ROW EXECUTE FUNCTION audit_run();

CREATE FUNCTION audit_checkpoint() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (run_id, what, fence, step, detail)
    VALUES (new.run_id, 'checkpoint', new.fence, new.step, new.key_prefix);
    RETURN NULL;
END $$;
CREATE TRIGGER audit_checkpoint AFTER INSERT OR UPDATE ON checkpoints
FOR EACH ROW EXECUTE FUNCTION audit_checkpoint();

CREATE FUNCTION audit_event() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (run_id, what, fence, step, detail)
    VALUES (new.run_id, 'event', new.fence, new.step, new.type);
    RETURN NULL;
END $$;
CREATE TRIGGER audit_event AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION audit_event();
"""
_ENTRIES = "SELECT id, app, run_id, what, fence, step, detail, valid_s FROM audit ORDER BY id"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One committed write."""

    id: int
    app: str
    run_id: str
    what: str
    fence: int
    step: int
    detail: str
    """Of a checkpoint or result its key prefix, of an event its type."""
    valid_s: float | None


def install(conn: psycopg.Connection[Any]) -> None:
    """Add the triggers to a database that has no runs yet."""
    conn.execute(_INSTALL)


def entries(conn: psycopg.Connection[Any]) -> list[Entry]:
    """Everything recorded so far. Writes of one run are in the order of their commits, because
    each holds the lock of the run's row."""
    with conn.cursor(row_factory=class_row(Entry)) as cursor:
        return cursor.execute(_ENTRIES).fetchall()
