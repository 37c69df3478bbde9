"""The CLIP scores of the pictures that runs make while they train.

Columns that may be null are added, so processes of the version before keep working.
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
ALTER TABLE run_samples
    ADD COLUMN clip_score double precision,
    ADD COLUMN similarity double precision,
    ADD COLUMN clip_model_digest text
""")
