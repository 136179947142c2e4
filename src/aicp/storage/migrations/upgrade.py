"""Takes an older database to a newer schema, all or nothing. Importing this costs half a second."""

import io
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


def postgresql_steps(after: str | None, to: str = "head") -> str:
    """SQL that takes a PostgreSQL database from one revision, None for an empty one, to a later one.

    It is to run in one transaction. Since it is text, a step cannot ask the database anything: it is SQL throughout.
    """
    config = _config()
    config.output_buffer = written = io.StringIO()
    command.upgrade(config, f"{after or 'base'}:{to}", sql=True)
    return "\n".join(_tidy(line) for line in written.getvalue().splitlines() if line.strip()) + "\n"


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("aicp.storage").joinpath("migrations")).replace("%", "%%"))
    return config


def _tidy(sql: str) -> str:
    return "\n".join(line.replace("\t", "  ").rstrip() for line in sql.splitlines())
