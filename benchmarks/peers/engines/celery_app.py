"""The tasks of Celery's worker, which is a process of its own; REDIS_URL says where they come from."""

import os
import time

from celery import Celery

from benchmarks.peers.engines.engine import NAP_S

app = Celery("bench", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(broker_connection_retry_on_startup=True, task_acks_late=True, worker_prefetch_multiplier=1)


def add_one(n: int) -> int:
    return n + 1


def one() -> int:
    return 1


def add_up(parts: list[int]) -> int:
    return sum(parts)


def nap() -> int:
    time.sleep(NAP_S)
    return 1


add_one_task = app.task(add_one)
one_task = app.task(one)
add_up_task = app.task(add_up)
nap_task = app.task(nap)
