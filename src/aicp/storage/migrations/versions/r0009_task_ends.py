"""Which ends the tasks of a chain have, on its row, and an index for each: a list of tasks reads no other chains."""

import sqlalchemy as sa
from alembic import op

from aicp.storage.migrations.columns import NUMBER
from aicp.storage.task_ends import ENDS, may_have

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column, empty, and the indexes: this expands. Chains recorded before have no ends on their rows."""
    op.add_column("chains", sa.Column("task_ends", NUMBER, nullable=True))
    for status in ENDS:
        condition = sa.text(may_have(status))
        op.create_index(
            f"chains_with_{status.value.lower()}", "chains", ["number", "tenant"],
            postgresql_where=condition, sqlite_where=condition,
        )  # fmt: skip
