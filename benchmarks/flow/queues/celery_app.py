"""Celery's worker: a task calls an agent over a connection that is kept."""

import http.client
import json
import os
from typing import Any
from urllib.parse import urlsplit

from celery import Celery

from benchmarks.flow.queues.calls import REDIS_VARIABLE, body_of, headers_of, next_endpoint

_redis = f"redis+socket://{os.environ[REDIS_VARIABLE]}"
app = Celery("bench", broker=_redis, backend=_redis)
app.conf.update(broker_connection_retry_on_startup=True, task_acks_late=True, worker_prefetch_multiplier=4)
_connections: dict[str, http.client.HTTPConnection] = {}


def call(task_id: str, params: dict[str, Any]) -> Any:
    endpoint = next_endpoint()
    connection = _connections.get(endpoint)
    if connection is None:
        where = urlsplit(endpoint)
        connection = _connections[endpoint] = http.client.HTTPConnection(where.hostname or "", where.port)
    connection.request("POST", "/invoke", body_of(task_id, params), headers_of(task_id))
    return json.loads(connection.getresponse().read())["result"]


call_task = app.task(call)
