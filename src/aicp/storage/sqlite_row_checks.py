"""Compares every row of a SQLite file with its checksum."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from aicp.errors import RecordDamaged
from aicp.storage.access_rows import KEY_COLUMNS, StoredApiKey, StoredAudit
from aicp.storage.agent_rows import AGENT_COLUMNS, StoredAgent, StoredOrder
from aicp.storage.capability_rows import CAPABILITY_COLUMNS, StoredCapability
from aicp.storage.chain_summaries import SUMMARY_COLUMNS
from aicp.storage.clock_rows import check_clock_state
from aicp.storage.request_rows import REQUEST_COLUMNS, StoredRequest
from aicp.storage.row_checks import (
    FACTS,
    KEYS_THERE_DAYS,
    MISSING_KEYS,
    MISSING_RESULTS,
    ORPHANS,
    ChainChecks,
    Problems,
    check_result,
    missing_chain,
    missing_key,
    missing_result,
)
from aicp.storage.row_checksums import described
from aicp.storage.rows import FACT_COLUMNS, timestamp
from aicp.storage.sqlite_access import RECORD_COLUMNS
from aicp.storage.sqlite_book import KEY_USE_COLUMNS, check_key_use
from aicp.storage.sqlite_reading import check_summary
from aicp.storage.wait_rows import WAIT_COLUMNS, StoredWait
from aicp.storage.wake_rows import WAKES, check_wake

_FACTS = FACTS.format(columns=f"{FACT_COLUMNS}, CAST(facts.fact AS BLOB)")
_CHAINS = f"SELECT {SUMMARY_COLUMNS} FROM chains"  # noqa: S608 - constants
_SUBMIT_KEYS = f"SELECT {KEY_USE_COLUMNS} FROM submit_keys"  # noqa: S608 - constants
_API_KEYS = f"SELECT {KEY_COLUMNS} FROM api_keys"  # noqa: S608 - constants
_AUDIT = f"SELECT {RECORD_COLUMNS} FROM audit"  # noqa: S608 - constants
_AGENTS = f"SELECT {AGENT_COLUMNS} FROM registrations"  # noqa: S608 - constants
_REQUESTS = f"SELECT {REQUEST_COLUMNS} FROM requests"  # noqa: S608 - constants
_WAITS = f"SELECT {WAIT_COLUMNS} FROM open_waits"  # noqa: S608 - constants
_CAPABILITIES = f"SELECT {CAPABILITY_COLUMNS} FROM capabilities"  # noqa: S608 - constants
_MISSING_KEYS = MISSING_KEYS.format(since="?")
_NEWEST = "SELECT max(submitted_at) FROM chains"
_MISSING_RECORDS = """
    SELECT number - 1 FROM audit AS later WHERE number > (SELECT min(number) FROM audit)
        AND NOT EXISTS (SELECT 1 FROM audit WHERE number = later.number - 1) LIMIT 100
"""

Check = Callable[[Any], object]


def find_damaged_rows(connection: sqlite3.Connection) -> list[str]:
    """What is wrong with rows of a database of the newest schema, at most 100 sentences without full stops.

    Raises:
        sqlite3.Error: It cannot be read.
    """
    problems = Problems()
    _check_facts(connection, problems)
    for sql, check in _checks(connection):
        with closing(connection.execute(sql)) as rows:
            for row in rows:
                problems.check(check, row)
    _find_missing(connection, problems)
    return problems.found


def _check_facts(connection: sqlite3.Connection, problems: Problems) -> None:
    chains = ChainChecks(problems)
    with closing(connection.execute(_FACTS)) as rows:
        for row in rows:
            chains.take(row)
    chains.end()


def _checks(connection: sqlite3.Connection) -> list[tuple[str, Check]]:
    """Each table's statement and what checks a row of it."""
    return [
        (_CHAINS, partial(_check_summary, connection)),
        ("SELECT digest, CAST(body AS BLOB) FROM results", check_result),
        (_SUBMIT_KEYS, check_key_use),
        (_AGENTS, _check_agent),
        ("SELECT agent_id, subject, command, ordered_at, checksum FROM agent_orders", _check_order),
        (_API_KEYS, lambda row: StoredApiKey(*row).verify()),
        (_AUDIT, lambda row: StoredAudit(*row).decode()),
        ("SELECT number, body, checksum FROM clock_state", check_clock_state),
        (WAKES, lambda row: check_wake(*row)),
        (_REQUESTS, lambda row: StoredRequest(*row).check()),
        (_WAITS, lambda row: StoredWait(*row).check()),
        (_CAPABILITIES, lambda row: StoredCapability(*row).check()),
    ]


def _check_summary(connection: sqlite3.Connection, row: Any) -> None:
    check_summary(connection, row).summary()


def _check_agent(row: Any) -> None:
    StoredAgent(*row).verify()


def _check_order(row: Any) -> None:
    StoredOrder(*row).decode(0)


def _find_missing(connection: sqlite3.Connection, problems: Problems) -> None:
    for (chain_id,) in connection.execute(ORPHANS).fetchall():
        problems.add(missing_chain(chain_id))
    for (digest,) in connection.execute(MISSING_RESULTS).fetchall():
        problems.add(missing_result(digest))
    if (since := _keys_since(connection)) is not None:
        for (chain_id,) in connection.execute(_MISSING_KEYS, (since,)).fetchall():
            problems.add(missing_key(chain_id))
    # Only a file has no gaps: on a server, a transaction that was undone leaves one.
    for (number,) in connection.execute(_MISSING_RECORDS).fetchall():
        problems.add(RecordDamaged("audit", described(number), "it is missing"))


def _keys_since(connection: sqlite3.Connection) -> str | None:
    (newest,) = connection.execute(_NEWEST).fetchone()
    try:
        return timestamp(datetime.fromisoformat(newest) - timedelta(days=KEYS_THERE_DAYS))
    except (TypeError, ValueError, OverflowError):
        return None
