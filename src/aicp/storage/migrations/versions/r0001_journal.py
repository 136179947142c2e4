"""Chains, their facts, large results, and keys of submits."""

import sqlalchemy as sa
from alembic import op

from aicp.storage.migrations.columns import NUMBER, UTC_TIME

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the journal's tables."""
    _make_chains()
    op.create_table(
        "facts",
        sa.Column("chain_id", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("fact", sa.Text, nullable=False),
        sa.Column("result_digest", sa.LargeBinary),
        sa.PrimaryKeyConstraint("chain_id", "seq"),
    )
    referring = sa.text("result_digest IS NOT NULL")
    op.create_index("facts_by_result", "facts", ["result_digest"], sqlite_where=referring, postgresql_where=referring)
    op.create_table(
        "results",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "submit_keys",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("chain_id", sa.Text, nullable=False),
        sa.Column("at", UTC_TIME, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key"),
        sqlite_with_rowid=False,
    )
    op.create_index("submit_keys_by_age", "submit_keys", ["at"])


def _make_chains() -> None:
    op.create_table(
        "chains",
        sa.Column("number", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("chain_id", sa.Text, nullable=False, unique=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("total_tasks", sa.Integer, nullable=False),
        sa.Column("epoch", NUMBER, nullable=False),
        sa.Column("submitted_at", UTC_TIME, nullable=False),
        sa.Column("ended_at", UTC_TIME),
        sa.Column("retry_of", sa.Text),
    )
    op.create_index("chains_of_tenant", "chains", ["tenant", "number"])
    op.create_index("chains_of_tenant_by_status", "chains", ["tenant", "status", "number"])
    op.create_index("chains_by_status", "chains", ["status", "number"])
    unfinished, finished = sa.text("ended_at IS NULL"), sa.text("ended_at IS NOT NULL")
    op.create_index("chains_unfinished", "chains", ["number"], sqlite_where=unfinished, postgresql_where=unfinished)
    op.create_index("chains_by_end", "chains", ["ended_at"], sqlite_where=finished, postgresql_where=finished)
