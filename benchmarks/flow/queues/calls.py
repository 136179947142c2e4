"""What a worker sends to an agent, and what it reads of the answer."""

import itertools
import json
import os
from typing import Any

AGENTS_VARIABLE = "AGENTS"
REDIS_VARIABLE = "REDIS_SOCKET"
SLOTS = 64
"""Of each agent: as many calls a worker may make at a time."""

_turn = itertools.count()


def next_endpoint() -> str:
    """The agents in turns."""
    endpoints = os.environ[AGENTS_VARIABLE].split()
    return endpoints[next(_turn) % len(endpoints)]


def headers_of(task_id: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "Idempotency-Key": task_id}


def body_of(task_id: str, params: dict[str, Any]) -> bytes:
    return json.dumps({"task_id": task_id, "capability": "echo", "params": params, "attempt": 1}).encode()
