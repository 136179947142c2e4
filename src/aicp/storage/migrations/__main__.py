"""`python -m aicp.storage.migrations` after a new step: writes what an empty database is made from."""

from importlib.resources import as_file, files

from aicp.storage.migrations.upgrade import fresh_schema

with as_file(files("aicp.storage.migrations").joinpath("schema.sql")) as path:
    path.write_text(fresh_schema(), encoding="utf-8")
