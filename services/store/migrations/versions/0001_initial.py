"""The first schema, kept as plain SQL beside this folder."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The driver's own connection: a file of many statements takes no parameters.
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute((Path(__file__).parents[1] / "0001_initial.sql").read_text(encoding="utf-8"))
