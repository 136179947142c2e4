"""`python -m aicp.storage.migrations` after a new step: writes what empty databases are made from."""

from importlib.resources import as_file, files

from aicp.storage.migrations.upgrade import fresh_schema, postgresql_steps

with as_file(files("aicp.storage.migrations")) as directory:
    directory.joinpath("schema.sql").write_text(fresh_schema(), encoding="utf-8")
    directory.joinpath("schema_postgresql.sql").write_text(postgresql_steps(None), encoding="utf-8")
