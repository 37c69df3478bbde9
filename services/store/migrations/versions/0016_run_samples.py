"""A table of the pictures that runs make while they train.

A table is added, so processes of the version before keep working meanwhile: their trainers report
pictures and store none, and with a run that they delete its rows go.
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
CREATE TABLE run_samples (
    tenant_id     text NOT NULL REFERENCES tenants,
    run_id        text NOT NULL REFERENCES runs ON DELETE CASCADE,
    step          integer NOT NULL,
    path          text NOT NULL,     -- among the artifacts of the run
    fence         bigint NOT NULL,   -- of the attempt that made it
    name          text NOT NULL,
    prompt        text,
    weights       text NOT NULL CHECK (weights IN ('trained', 'ema', 'base')),
    width_px      integer NOT NULL,
    height_px     integer NOT NULL,
    seed          bigint NOT NULL,
    sampler_steps integer NOT NULL,
    guidance      double precision NOT NULL,
    size_bytes    bigint NOT NULL,
    sha256        text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, path)
)
""")
    op.execute(
        "CREATE INDEX run_samples_newest ON run_samples (tenant_id, run_id, step DESC, path)"
    )
    op.execute("GRANT SELECT ON run_samples TO reverie_api")
    op.execute("ALTER TABLE run_samples ENABLE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY one_tenant ON run_samples TO reverie_api"
        " USING (tenant_id = current_setting('reverie.tenant_id', true))"
    )
