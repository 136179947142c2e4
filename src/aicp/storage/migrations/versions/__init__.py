"""The steps, one module each; Alembic reads them in the order of their revisions."""
