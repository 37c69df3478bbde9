"""Columns and tables for members, keys with scopes, batches, limits of runs, logs and secrets.

Columns are only added, with defaults, so processes of the version before keep working meanwhile.
They refuse keys that this version has made, which have no ``key_sha256``.
"""

import hashlib
import hmac
from pathlib import Path

from alembic import context, op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATEMENTS = (
    # The people of a tenant. A key acts for one of them, and may do at most what the role may.
    """
    CREATE TABLE members (
        member_id   text PRIMARY KEY,
        tenant_id   text NOT NULL REFERENCES tenants,
        name        text NOT NULL,
        role        text NOT NULL CHECK (role IN ('owner', 'member', 'viewer', 'billing')),
        created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        removed_at  timestamptz
    )
    """,
    "CREATE INDEX members_of_tenant ON members (tenant_id, member_id)",
    # Every tenant of the version before gets one owner, for whom its keys act.
    """
    INSERT INTO members (member_id, tenant_id, name, role)
    SELECT replace(tenant_id, 'ten_', 'mem_'), tenant_id, name, 'owner' FROM tenants
    """,
    """
    ALTER TABLE api_keys
        ADD COLUMN member_id text REFERENCES members,
        ADD COLUMN key_hmac text UNIQUE,           -- HMAC-SHA256 with the pepper of the service
        ADD COLUMN scopes text[],                  -- NULL: all that the member's role has
        ADD COLUMN expires_at timestamptz,         -- NULL: never
        ADD COLUMN last_used_at timestamptz,       -- a minute old at most; NULL: never used
        ADD COLUMN replaced_by text REFERENCES api_keys, -- it was rotated; NULL: it was not
        ALTER COLUMN key_sha256 DROP NOT NULL      -- NULL: made by this version or a later one
    """,
    "UPDATE api_keys SET member_id = replace(tenant_id, 'ten_', 'mem_')",
    # At most so many runs of the tenant are not over. It counts up only; NULL: not counted yet.
    "ALTER TABLE tenant_storage ADD COLUMN open_runs_at_most integer",
    # The Idempotency-Key with which an operator asked for the tenant; it is made once.
    "ALTER TABLE tenants ADD COLUMN request_key text UNIQUE",
    "CREATE INDEX api_keys_of_tenant ON api_keys (tenant_id, key_id)",
    # Keys of the people who run the service. They belong to no tenant.
    """
    CREATE TABLE operator_keys (
        key_id      text PRIMARY KEY,
        name        text NOT NULL,
        key_hmac    text NOT NULL UNIQUE,
        created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        expires_at  timestamptz,
        last_used_at timestamptz,
        revoked_at  timestamptz
    )
    """,
    # Keys of workers that reach the service over HTTPS only. Each is one worker.
    """
    CREATE TABLE worker_keys (
        key_id      text PRIMARY KEY,
        name        text NOT NULL,
        worker_id   text NOT NULL UNIQUE,
        gpu_class   text NOT NULL,
        node        text NOT NULL CHECK (node <> ''), -- so that offers name the worker
        key_hmac    text NOT NULL UNIQUE,
        created_by  text NOT NULL,                 -- an operator's key; '': at the database
        created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        expires_at  timestamptz,                   -- NULL: never
        last_used_at timestamptz,
        revoked_by  text,
        revoked_at  timestamptz,
        request_key text UNIQUE                    -- the Idempotency-Key that asked for it
    )
    """,
    # Who did what, newest last. The hash of a row covers all its columns and the hash before.
    """
    CREATE TABLE audit_events (
        tenant_id   text NOT NULL REFERENCES tenants,
        seq         bigint NOT NULL,               -- from 1, without gaps
        created_at  timestamptz NOT NULL,
        actor       jsonb NOT NULL,                -- {"kind": "key", "id": …}, operator or service
        action      text NOT NULL,                 -- such as run.canceled
        target      text NOT NULL,                 -- the id that it was done to
        client      text NOT NULL DEFAULT '',      -- address that the request came from
        data        jsonb NOT NULL DEFAULT '{}',
        hash_before text NOT NULL,
        hash        text NOT NULL,
        PRIMARY KEY (tenant_id, seq)
    )
    """,
    # Several runs of one request. Its runs are those that name it.
    """
    CREATE TABLE batches (
        batch_id    text PRIMARY KEY,
        tenant_id   text NOT NULL REFERENCES tenants,
        name        text NOT NULL DEFAULT '',
        sweep       json,                          -- as sent, in that order; NULL: a list of runs
        num_rows    integer NOT NULL,              -- accepted and refused
        refused     json NOT NULL DEFAULT '[]',    -- [{"row": 0, "options": {…}, "errors": […]}]
        created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX batches_of_tenant ON batches (tenant_id, batch_id)",
    """
    ALTER TABLE runs
        ADD COLUMN batch_id text REFERENCES batches,
        ADD COLUMN batch_row integer,              -- its place in the batch, from 0
        ADD COLUMN batch_options json,             -- what it has other than its batch
        ADD COLUMN parent_run_id text REFERENCES runs, -- it was cloned from
        ADD COLUMN max_cost_micros bigint,         -- it is paused there; NULL: no limit
        ADD COLUMN max_gpu_s double precision,     -- it is paused there; NULL: no limit
        ADD COLUMN deadline timestamptz,           -- it is paused then; NULL: none
        ADD COLUMN cancel_now boolean NOT NULL DEFAULT false, -- without a checkpoint
        ADD COLUMN best_loss double precision,     -- the lowest of a step; NULL: none was reported
        ADD COLUMN best_loss_step integer,
        ADD COLUMN traceparent text                -- W3C Trace Context; NULL: it is not traced
    """,
    """
    CREATE INDEX runs_of_batch ON runs (tenant_id, batch_id, batch_row)
        WHERE batch_id IS NOT NULL
    """,
    """
    CREATE INDEX runs_with_deadline ON runs (deadline)
        WHERE deadline IS NOT NULL AND status IN ('queued', 'running')
    """,
    """
    CREATE INDEX runs_with_limits ON runs (run_id)
        WHERE (max_cost_micros IS NOT NULL OR max_gpu_s IS NOT NULL)
            AND status IN ('queued', 'running')
    """,
    # What training processes print, in pieces.
    """
    CREATE TABLE run_logs (
        tenant_id   text NOT NULL REFERENCES tenants,
        run_id      text NOT NULL REFERENCES runs,
        start_byte  bigint NOT NULL,               -- of all its attempts' output
        num_bytes   integer NOT NULL,
        fence       bigint NOT NULL,
        text        text NOT NULL,
        created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (run_id, start_byte)
    )
    """,
    # Where its output starts in the run's log; NULL: it has printed nothing yet.
    "ALTER TABLE attempts ADD COLUMN log_start_byte bigint",
    # The id of the request that claimed it over HTTPS, which may arrive again; NULL: no such one.
    "ALTER TABLE attempts ADD COLUMN claim_id text",
    # Written by the API with the public key, read by the process that has the private one.
    """
    CREATE TABLE secrets (
        secret_id   text PRIMARY KEY,
        tenant_id   text NOT NULL REFERENCES tenants,
        name        text NOT NULL,
        kind        text NOT NULL CHECK (kind IN ('hub', 's3', 'wandb', 'webhook')),
        key_id      text NOT NULL,                 -- of the public key that sealed its data key
        sealed_key  bytea NOT NULL,
        ciphertext  bytea NOT NULL,
        version     bigint NOT NULL DEFAULT 1,     -- +1 at each new value
        warning     text,                          -- what a use has found out
        created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        last_used_at timestamptz,                  -- of this version
        UNIQUE (tenant_id, name)
    )
    """,
    # What a run's time depends on (trainer_core.config.plan.work.Work); exact once it is admitted.
    "ALTER TABLE runs ADD COLUMN work jsonb",
    # What finished attempts took, of all tenants and without anything of theirs, for estimates.
    """
    CREATE TABLE measured_attempts (
        attempt_id  text PRIMARY KEY,
        gpu_class   text NOT NULL,
        base_model  text NOT NULL,
        work        jsonb NOT NULL,
        num_steps   integer NOT NULL,
        step_s      double precision NOT NULL,     -- without the first one
        start_s     double precision NOT NULL,     -- of the process, to the end of its first step
        checkpoint_s double precision,             -- each; NULL: it wrote none
        end_s       double precision,              -- after the last step; NULL: it was stopped
        total_s     double precision NOT NULL,     -- from the claim to the end of the attempt
        process_s   double precision NOT NULL,     -- of the process, to its last event
        charged_s   double precision NOT NULL,
        created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE INDEX measured_attempts_newest ON measured_attempts
        (gpu_class, base_model, created_at DESC)
    """,
    # How long encoding takes, of all tenants: moving averages of the logarithm of seconds a unit.
    """
    CREATE TABLE measured_encoding (
        base_model  text NOT NULL,
        kind        text NOT NULL,                 -- of a cache shard
        num_shards  bigint NOT NULL,
        ln_unit_s   double precision NOT NULL,     -- a unit: a million pixels, or a caption
        deviation   double precision NOT NULL,     -- mean distance from it
        PRIMARY KEY (base_model, kind)
    )
    """,
    # What a worker of a class has; NULL: the operator did not say.
    """
    ALTER TABLE gpu_classes
        ADD COLUMN memory_bytes bigint,
        ADD COLUMN capability text                 -- such as 9.0
    """,
    """
    ALTER TABLE publications
        ADD COLUMN checkpoint_step integer,        -- NULL: of the result
        ADD COLUMN traceparent text                -- as of runs
    """,
    # A run whose metrics ``results`` relays to Weights & Biases.
    """
    CREATE TABLE metric_relays (
        run_id      text PRIMARY KEY REFERENCES runs,
        tenant_id   text NOT NULL REFERENCES tenants,
        secret      text NOT NULL,                 -- name of the tenant's secret that it uses
        status      text NOT NULL DEFAULT 'running'
            CHECK (status IN ('running', 'succeeded', 'failed')),
        seq         bigint NOT NULL DEFAULT 0,     -- the run's events up to it are relayed
        step        integer,                       -- the last step that is there; NULL: none
        url         text,
        error       jsonb,                         -- of the last try; NULL: it succeeded
        tries       integer NOT NULL DEFAULT 0,    -- since the last one that succeeded
        fence       bigint NOT NULL DEFAULT 0,     -- +1 at each claim
        lease_until timestamptz,
        due_at      timestamptz DEFAULT clock_timestamp(), -- when to go on; NULL: it is over
        updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX metric_relays_of_tenant ON metric_relays (tenant_id, secret)",
    """
    CREATE INDEX runs_index_in_flight ON runs (tenant_id)
        WHERE status = 'queued' AND stage = 'admission'
            AND (offered_until IS NOT NULL OR index_until IS NOT NULL)
    """,
    # In the order in which a tenant's runs are indexed: of thousands only the first few are read.
    "DROP INDEX runs_to_index",
    """
    CREATE INDEX runs_to_index ON runs (tenant_id, priority DESC, ring_after, run_id)
        WHERE status = 'queued' AND stage = 'admission'
    """,
    """
    CREATE INDEX metric_relays_held ON metric_relays (tenant_id, lease_until)
        WHERE lease_until IS NOT NULL
    """,
    "CREATE INDEX metric_relays_due ON metric_relays (due_at) WHERE due_at IS NOT NULL",
    # Found by the action's target, newest first.
    "CREATE INDEX audit_events_of_target ON audit_events (tenant_id, target, seq)",
    # What is to be deleted is hidden at once; ``results`` deletes it in steps. The rows of a run or
    # dataset go last, and the row of a tenant stays, without its name.
    """
    ALTER TABLE tenants
        ADD COLUMN deleted_at timestamptz,
        ADD COLUMN audit_anchored_at timestamptz,  -- NULL: never
        ADD COLUMN audit_anchored_seq bigint NOT NULL DEFAULT 0
    """,
    """
    ALTER TABLE runs
        ADD COLUMN deleted_at timestamptz,
        ADD COLUMN thinned_at timestamptz          -- its step events and logs were, by their age
    """,
    "ALTER TABLE datasets ADD COLUMN deleted_at timestamptz",
    # When to look whether anybody needs it; NULL: look at once.
    "ALTER TABLE cache_shards ADD COLUMN sweep_after timestamptz",
    # No reference to the tenant: in a database that was restored it may be missing.
    """
    CREATE TABLE deletions (
        deletion_id text PRIMARY KEY,
        tenant_id   text NOT NULL,
        kind        text NOT NULL CHECK (kind IN ('run', 'dataset', 'tenant')),
        target      text NOT NULL,                 -- the id of what is deleted
        status      text NOT NULL DEFAULT 'pending'
            CHECK (status IN ('pending', 'running', 'succeeded')),
        waits_for   text,                          -- why it does not go on; NULL: it does
        batch       jsonb NOT NULL DEFAULT '[]',   -- objects being deleted: [[key, bytes], …]
        report      jsonb NOT NULL DEFAULT '{}',
        fence       bigint NOT NULL DEFAULT 0,     -- +1 at each claim
        lease_until timestamptz,
        ring_after  timestamptz DEFAULT clock_timestamp(), -- when to go on; NULL: it is over
        created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        finished_at timestamptz,
        UNIQUE (kind, target)
    )
    """,
    "CREATE INDEX deletions_of_tenant ON deletions (tenant_id, deletion_id)",
    "CREATE INDEX deletions_due ON deletions (ring_after) WHERE ring_after IS NOT NULL",
    # For the deletion of the rows that they refer to, and for retention.
    "CREATE INDEX publications_of_any_run ON publications (run_id)",
    "CREATE INDEX runs_of_parent ON runs (parent_run_id) WHERE parent_run_id IS NOT NULL",
    "CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at)",
    """
    CREATE INDEX runs_to_thin ON runs (finished_at)
        WHERE finished_at IS NOT NULL AND thinned_at IS NULL
    """,
    "CREATE INDEX cache_shards_to_sweep ON cache_shards (sweep_after NULLS FIRST)",
    # Addresses that tenants want to be told of events at. A deleted one stays until its deliveries
    # are deleted.
    """
    CREATE TABLE webhooks (
        webhook_id  text PRIMARY KEY,
        tenant_id   text NOT NULL REFERENCES tenants,
        url         text NOT NULL,
        events      text[],                        -- their types; NULL: all
        secret_id   text REFERENCES secrets,       -- signs; NULL: it is deleted
        old_secret_id text REFERENCES secrets,     -- signs, too, until the time in the next column
        old_secret_expires_at timestamptz,
        first_failed_at timestamptz,               -- since the newest good answer; NULL: never
        disabled_at timestamptz,
        disabled_reason text,
        version     bigint NOT NULL DEFAULT 1,
        deleted_at  timestamptz,
        created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX webhooks_of_tenant ON webhooks (tenant_id, webhook_id)",
    # An event on its way to a webhook, written in the transaction of what it tells. No reference to
    # the webhook, so that no run waits for one that is being deleted.
    """
    CREATE TABLE webhook_deliveries (
        delivery_id text PRIMARY KEY,
        tenant_id   text NOT NULL REFERENCES tenants,
        webhook_id  text NOT NULL,
        event_id    text NOT NULL,                 -- the same in every try
        type        text NOT NULL,
        payload     json NOT NULL,                 -- the body, byte for byte
        status      text NOT NULL DEFAULT 'pending'
            CHECK (status IN ('pending', 'succeeded', 'failed')),
        attempts    integer NOT NULL DEFAULT 0,
        status_code integer,                       -- of the newest answer, as the next two
        error       text,                          -- why there was none
        reply       text,                          -- its first 2,048 bytes
        fence       bigint NOT NULL DEFAULT 0,     -- +1 at each claim
        lease_until timestamptz,
        due_at      timestamptz DEFAULT clock_timestamp(), -- of the next try; NULL: there is none
        created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE INDEX webhook_deliveries_of_webhook ON webhook_deliveries
        (tenant_id, webhook_id, delivery_id)
    """,
    """
    CREATE INDEX webhook_deliveries_due ON webhook_deliveries (tenant_id, webhook_id, due_at)
        WHERE due_at IS NOT NULL
    """,
    """
    CREATE INDEX webhook_deliveries_under_way ON webhook_deliveries (lease_until)
        WHERE lease_until IS NOT NULL
    """,
    "CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (created_at)",
    # Appends an event to a tenant's chain; no other transaction does until this one has ended. What
    # the hash is of is in ``domain/audit.py``. One call, and plpgsql: the statement after the lock
    # sees what was committed before the lock.
    """
    CREATE FUNCTION append_audit_event(tenant text, what jsonb, content_hash text)
    RETURNS void LANGUAGE plpgsql AS $function$
        DECLARE
            newest record;
            next_seq bigint;
            before text;
            now timestamptz;
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtextextended('audit_events ' || tenant, 0));
            SELECT seq, hash INTO newest FROM audit_events
                WHERE tenant_id = tenant ORDER BY seq DESC LIMIT 1;
            next_seq := coalesce(newest.seq, 0) + 1;
            before := coalesce(newest.hash, repeat('0', 64));
            now := clock_timestamp();
            INSERT INTO audit_events (tenant_id, seq, created_at, actor, action, target, client,
                data, hash_before, hash)
            VALUES (tenant, next_seq, now, what -> 'actor', what ->> 'action', what ->> 'target',
                what ->> 'client', what -> 'data', before,
                encode(sha256(convert_to(concat_ws(' ', before, next_seq,
                    to_char(now AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
                    content_hash), 'UTF8')), 'hex'));
        END
    $function$
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    pepper: bytes = context.config.attributes["key_pepper"]
    for key_id, key_sha256 in driver.execute("SELECT key_id, key_sha256 FROM api_keys").fetchall():
        key_hmac = hmac.new(pepper, key_sha256.encode(), hashlib.sha256).hexdigest()
        driver.execute("UPDATE api_keys SET key_hmac = %s WHERE key_id = %s", (key_hmac, key_id))
    access = Path(__file__).parents[1] / "0005_tenant_access.sql"
    driver.execute(access.read_text(encoding="utf-8"))
