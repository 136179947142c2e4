"""How the schema of a durable record came to be, step by step, for SQLite and PostgreSQL alike.

Nothing of Alembic is imported here: a record that is new or up to date never needs it.
"""
