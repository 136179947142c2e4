"""Keys and audit log of a server, and the care that they need while it runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec

from aicp.runtime.node import Node
from aicp.server.auditing import Auditing
from aicp.server.keys import Keys


class Access(msgspec.Struct, frozen=True):
    """Who may come in, and who writes down what they change.

    Attributes:
        keys: The keys.
        auditing: Writes the audit log.
    """

    keys: Keys
    auditing: Auditing


@contextlib.asynccontextmanager
async def access_with(admin_key: str, node: Node, audit_max: int) -> AsyncIterator[Access]:
    """The access to a running node: keys are read anew every second, and records written, until the block ends.

    Args:
        admin_key: Opens everything.
        node: Whose stores remember keys and records.
        audit_max: About how many audit records are kept.

    Raises:
        StorageError: The keys could not be read.
    """
    access = Access(
        Keys(admin_key, node.stores.api_keys, cutoff=node.progress.cutoff), Auditing(node.stores.audit_log, audit_max)
    )
    await access.keys.refresh()
    caring = [
        asyncio.create_task(access.keys.keep_fresh(), name="care of keys"),
        asyncio.create_task(access.auditing.keep_on(), name="care of the audit log"),
    ]
    try:
        yield access
    finally:
        for task in caring:
            task.cancel()
        await asyncio.gather(*caring, return_exceptions=True)
        await access.auditing.close()
