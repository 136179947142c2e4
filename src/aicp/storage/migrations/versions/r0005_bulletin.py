"""PostgreSQL alone: what replicas tell each other, and what they read of agents and orders since they last looked."""

import sqlalchemy as sa
from alembic import op

from aicp.storage.migrations.columns import NUMBER, UTC_TIME

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make what several processes need; a SQLite file belongs to one, and stays as it is."""
    if op.get_context().dialect.name != "postgresql":
        return
    op.add_column("registrations", _changed_in())
    op.create_table(
        "removed_agents",
        sa.Column("agent_id", sa.Text, primary_key=True),
        sa.Column("removed_at", UTC_TIME, nullable=False),
        _changed_in(),
    )
    op.create_table(
        "agent_orders",
        sa.Column("agent_id", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("ordered_at", UTC_TIME, nullable=False),
        _changed_in(),
    )
    for table in ("registrations", "removed_agents", "agent_orders"):
        op.create_index(f"{table}_changed", table, ["changed_in"])
    _make_notices()


def _make_notices() -> None:
    # Unlogged on purpose: they cost no write to the log, and one that is lost harms nobody.
    op.create_table(
        "notices",
        sa.Column("number", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("replica", NUMBER, nullable=False),
        sa.Column("posted_at", UTC_TIME, nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.Column("posted_in", NUMBER, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        prefixes=["UNLOGGED"],
    )
    op.create_index("notices_posted_in", "notices", ["posted_in"])
    op.create_index("notices_posted_at", "notices", ["posted_at"])


def _changed_in() -> sa.Column[int]:
    """The number of the transaction that last wrote the row."""
    return sa.Column("changed_in", NUMBER, nullable=False, server_default=sa.text("0"))
