"""Compares every row of AICP in a PostgreSQL database with its checksum."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from aicp.errors import RecordDamaged
from aicp.storage.access_rows import KEY_COLUMNS
from aicp.storage.agent_rows import AGENT_COLUMNS
from aicp.storage.capability_rows import CAPABILITY_COLUMNS, StoredCapability
from aicp.storage.chain_summaries import SUMMARY_COLUMNS
from aicp.storage.clock_rows import check_clock_state
from aicp.storage.postgres_access import RECORD_COLUMNS, stored_audit, stored_key
from aicp.storage.postgres_batch import KEY_USE_COLUMNS, check_key_use
from aicp.storage.postgres_orders import stored_order
from aicp.storage.postgres_reading import check_summaries
from aicp.storage.postgres_registrations import stored_agent
from aicp.storage.postgres_server import Connection
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
from aicp.storage.row_checksums import described, is_intact
from aicp.storage.rows import FACT_COLUMNS, timestamp
from aicp.storage.wait_rows import WAIT_COLUMNS, StoredWait
from aicp.storage.wake_rows import WAKES, check_wake

ROWS_AT_ONCE = 1_000
RESULTS_AT_ONCE = 20

_FACTS = FACTS.format(columns=f"{FACT_COLUMNS}, textsend(facts.fact)")
_CHAINS = f"SELECT {SUMMARY_COLUMNS} FROM chains ORDER BY number"  # noqa: S608 - constants
_RESULTS = "SELECT digest, textsend(body) FROM results"
_MISSING_KEYS = MISSING_KEYS.format(since="$1")
_NEWEST = "SELECT max(submitted_at) FROM chains"


async def find_damaged_rows(connection: Connection) -> list[str]:
    """What is wrong with rows of a database of the newest schema, at most 100 sentences without full stops.

    To be called in a transaction that is a snapshot.
    """
    problems = Problems()
    await _check_facts(connection, problems)
    await _check_chains(connection, problems)
    async for row in connection.cursor(_RESULTS, prefetch=RESULTS_AT_ONCE):
        problems.check(check_result, row)
    for sql, check in _CHECKS.items():
        async for row in connection.cursor(sql, prefetch=ROWS_AT_ONCE):
            problems.check(check, row)
    await _find_missing(connection, problems)
    return problems.found


async def _check_facts(connection: Connection, problems: Problems) -> None:
    chains = ChainChecks(problems)
    async for row in connection.cursor(_FACTS, prefetch=ROWS_AT_ONCE):
        chains.take(row)
    chains.end()


async def _check_chains(connection: Connection, problems: Problems) -> None:
    cursor = await connection.cursor(_CHAINS)
    while rows := await cursor.fetch(ROWS_AT_ONCE):
        for stored in await check_summaries(connection.fetch, rows):
            if isinstance(stored, RecordDamaged):
                problems.add(stored)


async def _find_missing(connection: Connection, problems: Problems) -> None:
    for (chain_id,) in await connection.fetch(ORPHANS):
        problems.add(missing_chain(chain_id))
    for (digest,) in await connection.fetch(MISSING_RESULTS):
        problems.add(missing_result(digest))
    newest = await connection.fetchval(_NEWEST)
    if newest is not None:
        for (chain_id,) in await connection.fetch(_MISSING_KEYS, newest - timedelta(days=KEYS_THERE_DAYS)):
            problems.add(missing_key(chain_id))


def _check_agent(row: Any) -> None:
    stored_agent(*row).verify()


def _check_order(row: Any) -> None:
    stored_order(*row).decode(0)


def _check_key(row: Any) -> None:
    stored_key(*row).verify()


def _check_record(row: Any) -> None:
    stored_audit(*row).decode()


def _check_wake(row: Any) -> None:
    chain_id, wake_at, stored = row
    check_wake(chain_id, None if wake_at is None else timestamp(wake_at), stored)


def _check_request(row: Any) -> None:
    chain_id, name, kind, body, by, at, stored = row
    StoredRequest(chain_id, name, kind, body, by, timestamp(at), stored).check()


def _check_wait(row: Any) -> None:
    chain_id, task_id, tenant, phase, since, due_at, *others = row
    due = None if due_at is None else timestamp(due_at)
    StoredWait(chain_id, task_id, tenant, phase, timestamp(since), due, *others).check()


def _check_capability(row: Any) -> None:
    tenant, capability, slots, latency_s, last_offered_at, *others = row
    StoredCapability(tenant, capability, slots, latency_s, timestamp(last_offered_at), *others).check()


def _check_id_in(table: str) -> Callable[[Any], None]:
    def check(row: Any) -> None:
        name, stored = row
        if not is_intact(stored, name):
            raise RecordDamaged(table, described(name), "its checksum is another")

    return check


_CHECKS: dict[str, Callable[[Any], object]] = {
    f"SELECT {KEY_USE_COLUMNS} FROM submit_keys": check_key_use,  # noqa: S608 - constants
    f"SELECT {AGENT_COLUMNS} FROM registrations": _check_agent,  # noqa: S608 - constants
    "SELECT agent_id, subject, command, ordered_at, checksum FROM agent_orders": _check_order,
    f"SELECT {KEY_COLUMNS} FROM api_keys": _check_key,  # noqa: S608 - constants
    f"SELECT {RECORD_COLUMNS} FROM audit": _check_record,  # noqa: S608 - constants
    "SELECT chain_id, checksum FROM cancel_requests": _check_id_in("cancel_requests"),
    "SELECT agent_id, checksum FROM removed_agents": _check_id_in("removed_agents"),
    "SELECT number, body, checksum FROM clock_state": check_clock_state,
    WAKES: _check_wake,
    f"SELECT {REQUEST_COLUMNS} FROM requests": _check_request,  # noqa: S608 - constants
    f"SELECT {WAIT_COLUMNS} FROM open_waits": _check_wait,  # noqa: S608 - constants
    f"SELECT {CAPABILITY_COLUMNS} FROM capabilities": _check_capability,  # noqa: S608 - constants
}
