-- All state of the service is in these tables. A "ring" is a Celery message that names a row to look
-- at. Times are the database server's (clock_timestamp()).

CREATE TABLE tenants (
    tenant_id   text PRIMARY KEY,
    name        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE api_keys (
    key_id      text PRIMARY KEY,
    tenant_id   text NOT NULL REFERENCES tenants,
    key_sha256  text NOT NULL UNIQUE,       -- keys carry 256 random bits, so one SHA-256 is enough
    name        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at  timestamptz
);

CREATE TABLE idempotency_keys (
    tenant_id   text NOT NULL REFERENCES tenants,
    method      text NOT NULL,
    path        text NOT NULL,
    key         text NOT NULL,
    fingerprint text NOT NULL,              -- SHA-256 of the request body
    status      integer,                    -- NULL while in flight
    body        jsonb,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, method, path, key)
);

CREATE TABLE datasets (
    dataset_id  text PRIMARY KEY,
    tenant_id   text NOT NULL REFERENCES tenants,
    name        text NOT NULL,
    status      text NOT NULL CHECK (status IN ('uploading', 'verifying', 'ready', 'rejected')),
    errors      jsonb NOT NULL DEFAULT '[]',
    ring_after  timestamptz,                -- NULL: nothing to do
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX datasets_to_ring ON datasets (ring_after) WHERE ring_after IS NOT NULL;
CREATE INDEX datasets_of_tenant ON datasets (tenant_id, dataset_id);

CREATE TABLE dataset_files (
    dataset_id  text NOT NULL REFERENCES datasets,
    tenant_id   text NOT NULL REFERENCES tenants,
    path        text NOT NULL,              -- relative, '/' separated
    media       text NOT NULL CHECK (media IN ('image', 'caption')),
    size_bytes  bigint NOT NULL,
    sha256      text NOT NULL,
    width_px    integer,                    -- as displayed (EXIF applied); NULL until verified
    height_px   integer,
    text        text,                       -- content of a caption file; NULL until verified
    PRIMARY KEY (dataset_id, path)
);

CREATE TABLE runs (
    run_id       text PRIMARY KEY,
    tenant_id    text NOT NULL REFERENCES tenants,
    request      jsonb NOT NULL,            -- as sent
    plan         jsonb NOT NULL,            -- resolved: trainer_core.config.plan.Plan
    plan_digest  text NOT NULL,             -- of the plan's identity
    warnings     jsonb NOT NULL DEFAULT '[]',
    base_model   text NOT NULL,
    datasets     jsonb NOT NULL,            -- {backend id: dataset id}
    data_index   jsonb,                     -- trainer_core.data.index.DataIndex, made at admission
    metadata     jsonb NOT NULL DEFAULT '{}',
    gpu_class    text NOT NULL,
    priority     integer NOT NULL DEFAULT 0,

    status       text NOT NULL CHECK (status IN
        ('queued', 'running', 'pausing', 'paused', 'canceling', 'succeeded', 'failed', 'canceled')),
    stage        text,
    status_reason jsonb,
    version      bigint NOT NULL DEFAULT 1, -- +1 at each change
    event_seq    bigint NOT NULL DEFAULT 0, -- last seq given in events

    fence        bigint NOT NULL DEFAULT 0, -- +1 at each claim
    worker_id    text,
    lease_until  timestamptz,               -- NULL: no worker holds it
    offered_until timestamptz,              -- offered to a worker; offered again after this
    ring_after   timestamptz,               -- when the dispatcher looks again; NULL: nothing to do
    sweep_after  timestamptz,               -- when to delete unreferenced objects; NULL: none
    attempts_without_progress integer NOT NULL DEFAULT 0,

    step         integer NOT NULL DEFAULT 0, -- last optimizer step reported
    max_steps    integer NOT NULL,
    checkpoint_step   integer NOT NULL DEFAULT 0,
    result_step       integer,
    result_key_prefix text,
    result_manifest_sha256 text,
    result_size_bytes bigint,

    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at   timestamptz,
    finished_at  timestamptz
);
CREATE INDEX runs_of_tenant ON runs (tenant_id, run_id);
CREATE INDEX runs_to_ring ON runs (ring_after) WHERE ring_after IS NOT NULL;
CREATE INDEX runs_waiting ON runs (gpu_class, priority DESC, run_id) WHERE status = 'queued' AND stage = 'capacity';
CREATE INDEX runs_caching ON runs (run_id) WHERE status = 'running' AND stage = 'caching';
CREATE INDEX runs_to_sweep ON runs (sweep_after) WHERE sweep_after IS NOT NULL;
CREATE INDEX runs_held ON runs (lease_until) WHERE lease_until IS NOT NULL;

CREATE TABLE attempts (
    attempt_id  text PRIMARY KEY,
    run_id      text NOT NULL REFERENCES runs,
    tenant_id   text NOT NULL REFERENCES tenants,
    fence       bigint NOT NULL,
    worker_id   text NOT NULL,
    from_step   integer NOT NULL,           -- checkpoint it started from
    last_step   integer NOT NULL,           -- last step it reported
    last_event  bigint NOT NULL DEFAULT 0,  -- number of its child's last event that is stored
    outcome     text,                       -- NULL while held; finished, stopped, failed, lost
    reason      jsonb,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at    timestamptz,
    UNIQUE (run_id, fence)
);

CREATE TABLE events (
    run_id      text NOT NULL REFERENCES runs,
    seq         bigint NOT NULL,
    tenant_id   text NOT NULL REFERENCES tenants,
    fence       bigint NOT NULL,
    type        text NOT NULL,
    step        integer NOT NULL,
    data        jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, seq)
);

CREATE TABLE checkpoints (
    run_id      text NOT NULL REFERENCES runs,
    step        integer NOT NULL,
    tenant_id   text NOT NULL REFERENCES tenants,
    fence       bigint NOT NULL,
    key_prefix  text NOT NULL,
    manifest_sha256 text NOT NULL,
    size_bytes  bigint NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, step)
);

CREATE TABLE cache_shards (
    tenant_id   text NOT NULL REFERENCES tenants,
    digest      text NOT NULL,              -- SHA-256 of the spec
    kind        text NOT NULL CHECK (kind IN ('latents', 'text')),
    spec        jsonb NOT NULL,             -- trainer_core.data.index.ShardSpec
    base_model  text NOT NULL,
    status      text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'done', 'failed')),
    attempts    integer NOT NULL DEFAULT 0,
    error       jsonb,
    manifest_sha256 text,
    size_bytes  bigint,
    ring_after  timestamptz,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at     timestamptz,
    PRIMARY KEY (tenant_id, digest)
);
CREATE INDEX cache_shards_to_ring ON cache_shards (ring_after) WHERE ring_after IS NOT NULL;

CREATE TABLE run_shards (
    run_id      text NOT NULL REFERENCES runs,
    tenant_id   text NOT NULL,
    digest      text NOT NULL,
    PRIMARY KEY (run_id, digest),
    FOREIGN KEY (tenant_id, digest) REFERENCES cache_shards
);
CREATE INDEX run_shards_of_shard ON run_shards (tenant_id, digest);

CREATE TABLE workers (
    worker_id   text PRIMARY KEY,
    kind        text NOT NULL,
    gpu_class   text NOT NULL,
    version     text NOT NULL,
    draining    boolean NOT NULL DEFAULT false,
    run_id      text,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE publications (
    publication_id text PRIMARY KEY,
    tenant_id   text NOT NULL REFERENCES tenants,
    run_id      text NOT NULL REFERENCES runs,
    target      jsonb NOT NULL,             -- {"kind": "folder"} or {"kind": "hub", "repo_id": ..., "private": ...}
    status      text NOT NULL CHECK (status IN ('pending', 'running', 'succeeded', 'failed')),
    fence       bigint NOT NULL DEFAULT 0,
    lease_until timestamptz,
    attempts    integer NOT NULL DEFAULT 0,
    location    text,                       -- folder path or Hub URL once succeeded
    revision    text,
    error       jsonb,
    ring_after  timestamptz,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX publications_of_run ON publications (tenant_id, run_id);
CREATE INDEX publications_to_ring ON publications (ring_after) WHERE ring_after IS NOT NULL;
