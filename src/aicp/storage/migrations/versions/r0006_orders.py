"""SQLite: what operators ordered for agents. PostgreSQL has had it since replicas read it there."""

import sqlalchemy as sa
from alembic import op

from aicp.storage.migrations.columns import UTC_TIME

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the table of orders where there is none; this expands, and takes nothing away."""
    if op.get_context().dialect.name == "postgresql":
        return
    op.create_table(
        "agent_orders",
        sa.Column("agent_id", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("ordered_at", UTC_TIME, nullable=False),
    )
