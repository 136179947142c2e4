"""Alembic's entry: runs the steps on the connection it was handed, inside that one's transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
context.run_migrations()
