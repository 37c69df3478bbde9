"""Columns and tables for sharing the workers between tenants: usage, quotas, prices, placement.

Columns are only added, with defaults, so processes of the version before keep working meanwhile.
"""

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATEMENTS = (
    # A tenant of weight 2 gets twice the GPU time of one of weight 1 while both have runs waiting.
    "ALTER TABLE tenants ADD COLUMN weight real NOT NULL DEFAULT 1 CHECK (weight > 0)",
    """
    ALTER TABLE runs
        ADD COLUMN infra_failures integer NOT NULL DEFAULT 0, -- in a row, without a new checkpoint
        ADD COLUMN index_until timestamptz,      -- its data is being indexed; NULL: it is not
        ADD COLUMN offered_to text,              -- worker that the offer names
        ADD COLUMN must_stop boolean NOT NULL DEFAULT false, -- the holder has to hand it back
        ADD COLUMN queued_at timestamptz NOT NULL DEFAULT clock_timestamp(), -- waits since
        ADD COLUMN charged_s double precision NOT NULL DEFAULT 0, -- of all attempts
        ADD COLUMN cost_micros bigint NOT NULL DEFAULT 0
    """,
    """
    ALTER TABLE attempts
        ADD COLUMN gpu_class text,
        ADD COLUMN node text NOT NULL DEFAULT '',  -- machine of the worker
        ADD COLUMN charged_s double precision NOT NULL DEFAULT 0,
        ADD COLUMN charged_until timestamptz,      -- NULL: the meter is off
        ADD COLUMN price_micros_per_hour bigint NOT NULL DEFAULT 0,
        ADD COLUMN cost_micros bigint NOT NULL DEFAULT 0,
        ADD COLUMN lost_steps integer,             -- steps after the last checkpoint, when it ended
        ADD COLUMN lost_s double precision         -- and the time since then
    """,
    """
    ALTER TABLE workers
        ADD COLUMN node text NOT NULL DEFAULT '',
        ADD COLUMN base_models text[] NOT NULL DEFAULT '{}', -- read lately by its machine
        ADD COLUMN drain_reason jsonb               -- NULL: it drains because it was asked to stop
    """,
    """
    ALTER TABLE datasets
        ADD COLUMN num_files integer,              -- NULL: not completed yet
        ADD COLUMN caption_bytes bigint,           -- of all its caption files; NULL as above
        ADD COLUMN verified_files integer NOT NULL DEFAULT 0,
        ADD COLUMN verified_to text NOT NULL DEFAULT '', -- path of the last verified file
        ADD COLUMN verify_failures integer NOT NULL DEFAULT 0, -- in a row, with the one under way
        ADD COLUMN offered_until timestamptz,      -- a ring was sent; sent again after this
        ADD COLUMN lease_until timestamptz,        -- a builder verifies it; NULL: none
        ADD COLUMN size_bytes bigint NOT NULL DEFAULT 0 -- of all its files, as declared
    """,
    """
    UPDATE datasets SET size_bytes = listed.size_bytes
    FROM (SELECT dataset_id, sum(size_bytes) AS size_bytes FROM dataset_files GROUP BY dataset_id)
        AS listed
    WHERE datasets.dataset_id = listed.dataset_id
    """,
    """
    UPDATE datasets SET num_files = counted.num_files, caption_bytes = counted.caption_bytes,
        verified_files = CASE WHEN status = 'verifying' THEN 0 ELSE counted.num_files END
    FROM (
        SELECT dataset_id, count(*) AS num_files,
            coalesce(sum(size_bytes) FILTER (WHERE media = 'caption'), 0) AS caption_bytes
        FROM dataset_files GROUP BY dataset_id
    ) AS counted
    WHERE datasets.dataset_id = counted.dataset_id AND status <> 'uploading'
    """,
    """
    ALTER TABLE cache_shards
        ADD COLUMN offered_until timestamptz,      -- a ring was sent; sent again after this
        ADD COLUMN lease_until timestamptz         -- a builder builds it; NULL: none
    """,
    """
    CREATE TABLE gpu_classes (
        gpu_class   text PRIMARY KEY,
        price_micros_per_hour bigint NOT NULL DEFAULT 0, -- in millionths of the currency
        currency    text NOT NULL DEFAULT 'USD'
    )
    """,
    # Seconds that fade: those of one half-life ago count half.
    """
    CREATE TABLE tenant_usage (
        tenant_id   text NOT NULL REFERENCES tenants,
        gpu_class   text NOT NULL,
        decayed_s   double precision NOT NULL DEFAULT 0,
        decayed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        mean_attempt_s double precision,            -- moving average of its attempts' charged_s
        is_active   boolean NOT NULL DEFAULT false, -- had runs that waited or were held lately
        PRIMARY KEY (tenant_id, gpu_class)
    )
    """,
    """
    CREATE TABLE monthly_usage (
        tenant_id   text NOT NULL REFERENCES tenants,
        month       date NOT NULL,                  -- its first day, UTC
        gpu_class   text NOT NULL,
        charged_s   double precision NOT NULL DEFAULT 0,
        cost_micros bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (tenant_id, month, gpu_class)
    )
    """,
    # NULL: the service's default.
    """
    CREATE TABLE quotas (
        tenant_id       text PRIMARY KEY REFERENCES tenants,
        queued_runs     integer,                    -- runs that are not over
        concurrent_runs integer,                    -- runs that a worker holds
        gpu_hours       double precision,           -- a month
        storage_bytes   bigint,                     -- datasets, checkpoints, results
        uploads         integer,                    -- datasets that are still uploading
        requests_per_minute integer
    )
    """,
    # What each tenant stores, counted a while ago. Contents may be lost in a crash.
    """
    CREATE UNLOGGED TABLE tenant_storage (
        tenant_id   text PRIMARY KEY,
        size_bytes  bigint NOT NULL,
        counted_at  timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    # Contents may be lost in a crash; then every bucket is full again.
    """
    CREATE UNLOGGED TABLE rate_buckets (
        tenant_id   text NOT NULL,
        policy      text NOT NULL,
        tokens      double precision NOT NULL,
        filled_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (tenant_id, policy)
    )
    """,
    # What the dispatcher reports every few seconds; shown by /readyz.
    """
    CREATE TABLE health (
        part        text PRIMARY KEY,               -- dispatcher, broker
        is_ok       boolean NOT NULL,
        checked_at  timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    # One row, by which a database that was restored from a backup notices that it was.
    """
    CREATE TABLE restore_guard (
        is_the_only_row boolean PRIMARY KEY DEFAULT true CHECK (is_the_only_row),
        service_id  text NOT NULL,                  -- names the marker in the object store
        generation  bigint NOT NULL DEFAULT 0,      -- +1 every minute, here and in the marker
        identity    text NOT NULL                   -- of the database whose runs are reconciled
    )
    """,
    """
    CREATE INDEX runs_open_of_tenant ON runs (tenant_id)
        WHERE status NOT IN ('succeeded', 'failed', 'canceled')
    """,
    # What a tenant stores is summed from indexes alone.
    "CREATE INDEX checkpoints_of_tenant ON checkpoints (tenant_id) INCLUDE (size_bytes)",
    """
    CREATE INDEX results_of_tenant ON runs (tenant_id) INCLUDE (result_size_bytes)
        WHERE result_size_bytes IS NOT NULL
    """,
    "CREATE INDEX runs_over_quota ON runs (tenant_id) WHERE status = 'queued' AND stage = 'quota'",
    """
    CREATE INDEX runs_waiting_of_tenant ON runs (gpu_class, tenant_id)
        WHERE status = 'queued' AND stage = 'capacity'
    """,
    "CREATE INDEX runs_offered ON runs (offered_until) WHERE offered_until IS NOT NULL",
    """
    CREATE INDEX runs_to_index ON runs (tenant_id, ring_after)
        WHERE status = 'queued' AND stage = 'admission'
    """,
    "CREATE INDEX datasets_due ON datasets (tenant_id, ring_after) WHERE ring_after IS NOT NULL",
    "CREATE INDEX datasets_not_completed ON datasets (updated_at) WHERE num_files IS NULL",
    """
    CREATE INDEX datasets_in_flight ON datasets (tenant_id)
        WHERE offered_until IS NOT NULL OR lease_until IS NOT NULL
    """,
    """
    CREATE INDEX cache_shards_due ON cache_shards (tenant_id, ring_after)
        WHERE ring_after IS NOT NULL
    """,
    """
    CREATE INDEX cache_shards_in_flight ON cache_shards (tenant_id)
        WHERE offered_until IS NOT NULL OR lease_until IS NOT NULL
    """,
    "CREATE INDEX runs_failed ON runs (finished_at) WHERE status = 'failed'",
    "CREATE INDEX attempts_started ON attempts (gpu_class, started_at)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    access = Path(__file__).parents[1] / "0004_tenant_access.sql"
    driver.execute(access.read_text(encoding="utf-8"))
