"""Room for what comes: levels, runs, contexts, families and parked chains, requests, open waits, known capabilities."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from aicp.storage.migrations.columns import NUMBER, UTC_TIME

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add columns, tables and indexes: this expands. `cancel_requests` stays, for code of the revision before."""
    _add_columns()
    _index_chains()
    _make_requests()
    _make_open_waits()
    _make_capabilities()


def _add_columns() -> None:
    columns: list[sa.Column[Any]] = [
        sa.Column("needs", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("runs", NUMBER, nullable=True),
        sa.Column("growth_check", NUMBER, nullable=True),
        sa.Column("context", sa.Text, nullable=True),
        sa.Column("changed_at", UTC_TIME, nullable=True),
        sa.Column("parent", sa.Text, nullable=True),
        sa.Column("wake_at", UTC_TIME, nullable=True),
        sa.Column("wake_checksum", NUMBER, nullable=True),
    ]
    for column in columns:
        op.add_column("chains", column)
    for table in ("registrations", "api_keys"):
        op.add_column(table, sa.Column("more", sa.Text, nullable=True))
    if op.get_context().dialect.name == "postgresql":
        op.add_column("replicas", sa.Column("level", sa.Integer, nullable=False, server_default=sa.text("0")))


def _index_chains() -> None:
    """For lists by time; and partial ones: a chain without a name, a context, a parent, a time to wake has no entry."""
    op.create_index("chains_by_submit", "chains", ["submitted_at", "number"])
    op.create_index("chains_of_tenant_by_submit", "chains", ["tenant", "submitted_at", "number"])
    indexes = {
        "chains_by_name": (["name", "tenant", "number"], "name <> ''"),
        "chains_by_context": (["tenant", "context", "changed_at"], "context IS NOT NULL"),
        "chains_by_parent": (["parent"], "parent IS NOT NULL"),
        "chains_parked": (["wake_at"], "wake_at IS NOT NULL"),
    }
    for name, (columns, where) in indexes.items():
        condition = sa.text(where)
        operators = {"name": "text_pattern_ops"} if "name" in columns else {}
        op.create_index(
            name, "chains", columns, postgresql_where=condition, sqlite_where=condition, postgresql_ops=operators
        )


def _make_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("chain_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("at", UTC_TIME, nullable=False),
        sa.Column("checksum", NUMBER, nullable=True),
    )


def _make_open_waits() -> None:
    op.create_table(
        "open_waits",
        sa.Column("chain_id", sa.Text, primary_key=True),
        sa.Column("task_id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("since", UTC_TIME, nullable=False),
        sa.Column("due_at", UTC_TIME, nullable=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("checksum", NUMBER, nullable=True),
    )
    op.create_index("open_waits_of_tenant", "open_waits", ["tenant", "phase", "since", "task_id"])
    op.create_index("open_waits_by_phase", "open_waits", ["phase", "since", "task_id"])


def _make_capabilities() -> None:
    op.create_table(
        "capabilities",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("capability", sa.Text, primary_key=True),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("latency_s", sa.Double, nullable=True),
        sa.Column("last_offered_at", UTC_TIME, nullable=False),
        sa.Column("described", sa.Text, nullable=False),
        sa.Column("checksum", NUMBER, nullable=True),
    )
    op.create_index("capabilities_by_age", "capabilities", ["last_offered_at"])
