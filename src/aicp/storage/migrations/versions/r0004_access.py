"""Keys that open the API, and what was done with them."""

import sqlalchemy as sa
from alembic import op

from aicp.storage.migrations.columns import NUMBER, UTC_TIME

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the tables of keys and of the audit log."""
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("described", sa.Text, nullable=False),
        sa.Column("created_at", UTC_TIME, nullable=False),
        sa.Column("expires_at", UTC_TIME),
        sa.Column("revoked_at", UTC_TIME),
    )
    op.create_table(
        "audit",
        sa.Column("number", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("at", UTC_TIME, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("object_id", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
    )
    op.create_index("audit_of_tenant", "audit", ["tenant", "number"])
    if op.get_context().dialect.name == "postgresql":
        _make_version()


def _make_version() -> None:
    """Raised with every change of a key, so that other replicas read the keys anew only when there is something new."""
    op.create_table(
        "api_keys_version",
        sa.Column("one", sa.Boolean, sa.CheckConstraint("one"), primary_key=True),
        sa.Column("version", NUMBER, nullable=False),
    )
    op.execute("INSERT INTO api_keys_version VALUES (TRUE, 0)")
