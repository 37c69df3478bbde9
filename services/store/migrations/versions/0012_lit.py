"""A column for what of a picture is above black, so that a black mask is known before it is used.

It may be NULL, so processes of the version before keep working meanwhile; what their cache builders
verify is taken as lit.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # trainer_core.data.mask_levels.Lit; NULL: nobody has looked.
    op.execute("ALTER TABLE dataset_files ADD COLUMN lit text")
