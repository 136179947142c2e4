"""Claims, lists, prunes and requests among many chains on PostgreSQL: the server reads the page, not the table.

`AICP_TEST_PLAN_CHAINS=1000000` runs the same with a million chains, in some minutes, and `--log-cli-level=INFO` shows
the costs.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import Any

import asyncpg
import msgspec
import pytest

from aicp.model.request import KINDS
from aicp.model.task import TaskStatus
from aicp.ports import ChainQuery
from aicp.storage import postgres_claiming, postgres_pruning, postgres_requests
from aicp.storage.list_shapes import shape_of
from aicp.storage.postgres_reading import LIST_BY_SHAPE, list_parameters
from aicp.storage.pruned import CHAINS_AT_ONCE_MAX
from tests.integration.postgres_kit import opened, run, shared_server
from tests.unit.sqlite_kit import AT

CHAINS = int(os.environ.get("AICP_TEST_PLAN_CHAINS", "20000"))
PARKED = CHAINS // 100
DEAD, ALIVE = 900_001, 900_002
BEGIN, HOUR = datetime(2026, 1, 1, tzinfo=UTC), timedelta(hours=1)
_log = logging.getLogger(__name__)

_FILL = f"""
    INSERT INTO replicas (number, name, revision, joined_at, alive_until, died_at, session) VALUES
        ({DEAD}, 'dead', '0010', now(), now(), now(), 1), ({ALIVE}, 'alive', '0010', now(), 'infinity', NULL, 1);
    INSERT INTO chains (chain_id, tenant, name, status, total_tasks, epoch, submitted_at, ended_at, owner, task_ends,
        needs, context, changed_at, parent, wake_at, facts_min)
    SELECT md5(n::text), 'tenant-' || n % 10, CASE WHEN n % 2 = 0 THEN 'name ' || n ELSE '' END,
        CASE WHEN open THEN 'RUNNING' ELSE 'COMPLETED' END, 3, 1, timestamptz '2026-01-01' + n * interval '1 second',
        CASE WHEN NOT open THEN timestamptz '2026-02-01' + n * interval '1 second' END,
        CASE WHEN open AND n > {PARKED} THEN CASE WHEN n % 3 = 0 THEN {DEAD} ELSE {ALIVE} END END, 17,
        CASE WHEN n % 7 = 0 THEN 1 ELSE 0 END,
        CASE WHEN n % 50 = 0 THEN 'context ' || n % 500 END, CASE WHEN n % 50 = 0 THEN now() END,
        CASE WHEN n % 100 = 0 THEN md5('p' || n / 1000) || '.t' END,
        CASE WHEN n <= {PARKED} THEN timestamptz '2026-01-01' + n * interval '1 hour' END, 1
    FROM (SELECT n, n <= {2 * PARKED} AS open FROM generate_series(1, {CHAINS}) AS n) AS numbered;
    INSERT INTO facts (chain_id, seq, fact) SELECT chain_id, 0, '{{"kind":"chain_submitted"}}' FROM chains;
    INSERT INTO requests (chain_id, name, kind, body, "by", at)
        SELECT chain_id, 'cancel', 'cancel', '{{}}', '', now() FROM chains WHERE number <= 100;
"""


class Plan(msgspec.Struct):
    """How the server ran a statement.

    Attributes:
        blocks: How many of 8 KiB it looked at.
        nodes: Each step, with the table or index it is about.
        ms: How long it took.
    """

    blocks: int
    nodes: list[str]
    ms: float

    def scans(self, table: str) -> bool:
        """True when it read a whole table."""
        return f"Seq Scan {table}" in self.nodes


@pytest.fixture(scope="module")
def url() -> str:
    """A database with many chains; no test changes it."""
    filled = shared_server().fresh_url()

    async def fill() -> None:
        async with opened(filled):
            pass
        connection = await asyncpg.connect(filled)
        try:
            await connection.execute(_FILL)
            await connection.execute("VACUUM ANALYZE")
        finally:
            await connection.close()

    asyncio.run(fill())
    return filled


@asynccontextmanager
async def undone(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that is rolled back."""
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield connection
    finally:
        await transaction.rollback()
        await connection.close()


async def plan_of(connection: asyncpg.Connection, sql: str, *args: object) -> Plan:
    told = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *args)
    (root,) = json.loads(told)
    nodes: list[str] = []
    _gather(root["Plan"], nodes)
    top = root["Plan"]
    blocks = top["Shared Hit Blocks"] + top["Shared Read Blocks"]
    return Plan(blocks, nodes, root["Execution Time"])


def _gather(node: dict[str, Any], nodes: list[str]) -> None:
    about = node.get("Index Name") or node.get("Relation Name") or ""
    nodes.append(f"{node['Node Type']} {about}".rstrip())
    for below in node.get("Plans", ()):
        _gather(below, nodes)


def judge(name: str, plan: Plan, blocks_max: int, *indexes: str) -> None:
    _log.info("%d chains, %s: %d blocks, %.1f ms", CHAINS, name, plan.blocks, plan.ms)
    assert not plan.scans("chains"), plan.nodes
    assert not plan.scans("facts"), plan.nodes
    assert plan.blocks <= blocks_max, plan
    for index in indexes:
        assert any(index in node for node in plan.nodes), plan.nodes


def check(url: str, name: str, blocks_max: int, indexes: tuple[str, ...], sql: str, *args: object) -> None:
    async def main() -> None:
        async with undone(url) as connection:
            judge(name, await plan_of(connection, sql, *args), blocks_max, *indexes)

    run(main())


def test_claim_reads_the_chains_of_dead_replicas_alone(url: str) -> None:
    args: tuple[object, ...] = (ALIVE, 200, [], 2_000, 0, [])
    check(url, "claim", 3_000, ("chains_by_owner",), postgres_claiming._LOCK, *args)


def test_requests_are_found_by_their_own_rows(url: str) -> None:
    check(url, "requests", 2_000, (), postgres_requests._ASKED, ALIVE, list(KINDS))


LISTS = {
    "all": (ChainQuery(), 200),
    "of a tenant": (ChainQuery("tenant-3"), 400),
    "of a status": (ChainQuery(status=TaskStatus.COMPLETED), 400),
    "of a tenant and a status": (ChainQuery("tenant-3", TaskStatus.COMPLETED), 400),
    "unfinished": (ChainQuery(unfinished=True), 400),
    "unfinished of a tenant": (ChainQuery("tenant-3", unfinished=True), 2_000),
    "with failed tasks": (ChainQuery(with_tasks=TaskStatus.FAILED), 400),
    "behind another": (ChainQuery("tenant-3", before=md5(b"13003").hexdigest()), 400),
    "a name of many": (ChainQuery(name="name"), 400),
    "a name of few": (ChainQuery(name=f"name {CHAINS // 2}"), 400),
    "a name of few of a tenant": (ChainQuery("tenant-2", name="name 102"), 400),
    "a name of nobody": (ChainQuery("tenant-2", name="another"), 100),
    "a time": (ChainQuery(submitted_from=BEGIN + HOUR, submitted_to=BEGIN + 2 * HOUR), 400),
    "a time of a tenant": (ChainQuery("tenant-3", submitted_from=BEGIN + HOUR, submitted_to=BEGIN + 2 * HOUR), 400),
    "until a time": (ChainQuery(submitted_to=BEGIN + HOUR), 400),
    "a time without chains": (ChainQuery(submitted_to=BEGIN), 100),
    "a time and a name": (ChainQuery(name="name 10", submitted_to=BEGIN + HOUR), 2_000),
    "behind another in a time": (ChainQuery(submitted_to=BEGIN + HOUR, before=md5(b"1003").hexdigest()), 400),
}


@pytest.mark.parametrize("name", LISTS)
def test_list_reads_a_page(url: str, name: str) -> None:
    query, blocks_max = LISTS[name]
    shape = shape_of(query)
    check(url, f"list {name}", blocks_max, (), LIST_BY_SHAPE[shape], *list_parameters(query, shape))


def test_prune_reads_what_it_forgets(url: str) -> None:
    check(url, "ended", 400, ("chains_by_end",), postgres_pruning._ENDED, AT.replace(year=2030), CHAINS_AT_ONCE_MAX)

    async def main() -> None:
        async with undone(url) as connection:
            rows = await connection.fetch("SELECT chain_id FROM chains WHERE ended_at IS NOT NULL LIMIT 100")
            chain_ids = [chain_id for (chain_id,) in rows]
            for sql in postgres_pruning._ROWS_OF_CHAINS:
                judge(sql, await plan_of(connection, sql, chain_ids), 3_000)

    run(main())


@pytest.mark.parametrize(
    ("index", "where", "order"),
    [
        ("chains_parked", "wake_at IS NOT NULL AND wake_at <= '2026-01-02'", "wake_at"),
        ("chains_by_context", "tenant = 'tenant-0' AND context = 'context 100'", "changed_at DESC"),
        ("chains_by_parent", "parent = md5('p' || 7) || '.t'", "number"),
    ],
)
def test_parked_chains_contexts_and_families_have_an_index(url: str, index: str, where: str, order: str) -> None:
    sql = f"SELECT number FROM chains WHERE {where} ORDER BY {order} LIMIT 50"
    check(url, index, 400, (index,), sql)
