"""PostgreSQL alone: processes that share the database, who of them owns what, and what one asks of another."""

import sqlalchemy as sa
from alembic import op

from aicp.storage.migrations.columns import NUMBER, UTC_TIME

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make what several processes need; a SQLite file belongs to one, and stays as it is."""
    if op.get_context().dialect.name != "postgresql":
        return
    _make_replicas()
    op.add_column("chains", sa.Column("owner", NUMBER))
    unfinished = sa.text("ended_at IS NULL")
    op.create_index("chains_by_owner", "chains", ["owner", "number"], postgresql_where=unfinished)
    op.create_table(
        "cancel_requests",
        sa.Column("chain_id", sa.Text, primary_key=True),
        sa.Column("at", UTC_TIME, nullable=False),
    )
    op.create_table("schema_needs", sa.Column("revision", sa.Text, nullable=False))
    op.execute(f"INSERT INTO schema_needs VALUES ('{revision}')")  # noqa: S608 - a constant of this file


def _make_replicas() -> None:
    op.create_table(
        "replicas",
        sa.Column("number", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("revision", sa.Text, nullable=False),
        sa.Column("joined_at", UTC_TIME, nullable=False),
        sa.Column("alive_until", UTC_TIME, nullable=False),
        sa.Column("died_at", UTC_TIME),
        sa.Column("session", NUMBER, nullable=False),
        sa.Column("server_life", sa.Text),
    )
    # Unlogged on purpose: a server that crashed has it empty, and so everybody knows that it lost all locks.
    op.create_table(
        "server_life",
        sa.Column("one", sa.Boolean, sa.CheckConstraint("one"), primary_key=True),
        sa.Column("born", sa.Text, nullable=False),
        prefixes=["UNLOGGED"],
    )
