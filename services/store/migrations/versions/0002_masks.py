"""Cache shards may hold masks."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE cache_shards DROP CONSTRAINT cache_shards_kind_check")
    op.execute(
        "ALTER TABLE cache_shards ADD CONSTRAINT cache_shards_kind_check"
        " CHECK (kind IN ('latents', 'text', 'masks'))"
    )
