"""How far time has progressed for this record, so that a wall clock that is wrong for a while deletes nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the table; this expands, and takes nothing away."""
    op.create_table(
        "clock_state",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("body", sa.Text, nullable=False),
    )
