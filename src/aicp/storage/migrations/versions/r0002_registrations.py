"""Registered agents; a secret stands apart from the rest, sealed."""

import sqlalchemy as sa
from alembic import op

from aicp.storage.migrations.columns import UTC_TIME

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table of registrations."""
    op.create_table(
        "registrations",
        sa.Column("agent_id", sa.Text, primary_key=True),
        sa.Column("profile", sa.Text, nullable=False),
        sa.Column("sealed_auth", sa.LargeBinary),
        sa.Column("saved_at", UTC_TIME, nullable=False),
    )
