"""Types of columns that SQLite and PostgreSQL name differently."""

import sqlalchemy as sa

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""64 bits on both; on SQLite only an INTEGER primary key is the row's own number."""

UTC_TIME = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")
"""SQLite has no type for times: there it is RFC 3339 text of one length, which sorts as the times do."""
