"""Checksums of rows, and on a chain's row how many facts and which epoch it has at least."""

import sqlalchemy as sa
from alembic import op

from aicp.storage.migrations.columns import NUMBER

revision = "0008"
down_revision = "0007"

_COLUMNS = {
    "chains": ("checksum", "status_checksum", "key_checksum", "facts_min", "epoch_min"),
    "facts": ("checksum",),
    "submit_keys": ("checksum",),
    "registrations": ("checksum",),
    "api_keys": ("checksum", "revoked_checksum"),
    "audit": ("checksum",),
    "agent_orders": ("checksum",),
    "clock_state": ("checksum",),
}
_COLUMNS_ON_POSTGRESQL = {"cancel_requests": ("checksum",), "removed_agents": ("checksum",)}


def upgrade() -> None:
    """Add the columns, empty: this expands. Older rows have no checksum until they are written again."""
    on_postgresql = op.get_context().dialect.name == "postgresql"
    tables = _COLUMNS | _COLUMNS_ON_POSTGRESQL if on_postgresql else _COLUMNS
    for table, columns in tables.items():
        for column in columns:
            op.add_column(table, sa.Column(column, NUMBER, nullable=True))
