"""Taskiq's worker: a task calls an agent over a connection that is kept; acknowledged when its result is saved."""

import os
from typing import Any

import aiohttp
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.flow.queues.calls import REDIS_VARIABLE, body_of, headers_of, next_endpoint

_redis = f"unix://{os.environ[REDIS_VARIABLE]}"
broker = RedisStreamBroker(_redis).with_result_backend(RedisAsyncResultBackend(_redis))
_sessions: list[aiohttp.ClientSession] = []


async def open_session(_: TaskiqState) -> None:
    _sessions.append(aiohttp.ClientSession())


async def call(task_id: str, params: dict[str, Any]) -> Any:
    endpoint, session = next_endpoint(), _sessions[0]
    async with session.post(f"{endpoint}/invoke", data=body_of(task_id, params), headers=headers_of(task_id)) as answer:
        return (await answer.json())["result"]


broker.on_event(TaskiqEvents.WORKER_STARTUP)(open_session)
call_task = broker.task(call)
