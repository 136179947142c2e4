"""Takes an older SQLite database to the newest schema, all or nothing. Importing this costs half a second."""

import sqlite3
from importlib.resources import files

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory


def upgrade(connection: sqlite3.Connection, revision: str = "head") -> None:
    """Run every step that is due, in one transaction of `connection`, which must be in autocommit mode and stays open.

    Raises:
        sqlite3.Error: A step failed; the database is as it was.
    """
    engine = sa.create_engine("sqlite://", creator=lambda: connection, poolclass=sa.StaticPool)
    sa.event.listen(engine, "begin", _begin)
    try:
        with engine.begin() as transaction:
            config = _config()
            config.attributes["connection"] = transaction
            command.upgrade(config, revision)
    except sa.exc.DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise error.orig from error
        raise


def revisions() -> list[str]:
    """Every revision, oldest first."""
    walked = ScriptDirectory.from_config(_config()).walk_revisions()
    return [script.revision for script in walked][::-1]


def fresh_schema() -> str:
    """SQL that makes an empty SQLite database what all steps together would: the text of `schema.sql`."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        upgrade(connection)
        made = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid").fetchall()
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    finally:
        connection.close()
    statements = [*(_tidy(sql) for (sql,) in made), f"INSERT INTO alembic_version VALUES ('{version}')"]  # noqa: S608 - a revision's name
    return "".join(f"{statement};\n" for statement in statements)


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("aicp.storage").joinpath("migrations")).replace("%", "%%"))
    return config


def _tidy(sql: str) -> str:
    return "\n".join(line.replace("\t", "  ").rstrip() for line in sql.splitlines())
