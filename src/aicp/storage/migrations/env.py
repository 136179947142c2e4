"""Alembic's entry: runs the steps on the connection it was handed, or writes them as SQL for PostgreSQL."""

from alembic import context

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=None)
else:
    context.configure(connection=context.config.attributes["connection"], target_metadata=None)
context.run_migrations()
