"""A table of the previews of pictures that runs are sampling: at most one of each run.

A table is added, so processes of the version before keep working meanwhile: their trainers make no
previews, and with a run that they delete its row goes.
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
CREATE TABLE run_previews (
    run_id        text PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
    tenant_id     text NOT NULL REFERENCES tenants,
    fence         bigint NOT NULL,   -- of the attempt that made it
    step          integer NOT NULL,
    picture       text NOT NULL,     -- its path, once it is a row of run_samples
    name          text NOT NULL,
    weights       text NOT NULL CHECK (weights IN ('trained', 'ema', 'base')),
    seed          bigint NOT NULL,
    width_px      integer NOT NULL,
    height_px     integer NOT NULL,
    sampler_step  integer NOT NULL,
    sampler_steps integer NOT NULL,
    size_bytes    bigint NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
)
""")
    op.execute("CREATE INDEX run_previews_of_tenant ON run_previews (tenant_id)")
    op.execute("GRANT SELECT ON run_previews TO reverie_api")
    op.execute("ALTER TABLE run_previews ENABLE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY one_tenant ON run_previews TO reverie_api"
        " USING (tenant_id = current_setting('reverie.tenant_id', true))"
    )
