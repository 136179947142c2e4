"""Ids of chains, of their tasks, and of the runs of a task.

    <chain>               a chain: 32 hexadecimal digits
    <chain>.<task>        a task; the only run of one that is neither mapped nor repeated
    <chain>.<task>.<n>    one item or round of a task: n counts from 0, has no leading zeros and is below 1,000,000

The part behind the first dot is the id of the run inside its chain. There are no deeper levels.
"""

import re

import msgspec

TASK_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Of a task inside its chain."""
CHAIN_ID_PATTERN = re.compile(r"[0-9a-f]{32}")
RUN_ID_PATTERN = re.compile(rf"({CHAIN_ID_PATTERN.pattern})\.({TASK_ID_PATTERN.pattern})(?:\.(0|[1-9][0-9]{{0,5}}))?")
"""Of a run, with its chain's id before it: its groups are the chain, the task, and the number of the item or round."""
_ID_PATTERN = re.compile(rf"{CHAIN_ID_PATTERN.pattern}|{RUN_ID_PATTERN.pattern}")


class RunId(msgspec.Struct, frozen=True, gc=False):
    """An id of a run in its parts.

    Attributes:
        chain_id: The chain.
        task: The task inside the chain.
        index: Which item or round of the task, from 0; None for the task itself.
    """

    chain_id: str
    task: str
    index: int | None = None

    def __str__(self) -> str:
        """The id as it is written."""
        return global_id(self.chain_id, self.run)

    @property
    def run(self) -> str:
        """Its id inside the chain: `<task>` or `<task>.<n>`."""
        return self.task if self.index is None else run_of(self.task, self.index)


def parse_run_id(written: str) -> RunId | None:
    """The parts of `<chain>.<task>` or `<chain>.<task>.<n>`; None for anything else."""
    found = RUN_ID_PATTERN.fullmatch(written)
    if found is None:
        return None
    chain_id, task, index = found.groups()
    return RunId(chain_id, task, None if index is None else int(index))


def is_id(written: str) -> bool:
    """True for the id of a chain, and for the global id of a run."""
    return _ID_PATTERN.fullmatch(written) is not None


def global_id(chain_id: str, run: str) -> str:
    """The id of a run of a chain outside of it; it is also the idempotency key that agents get."""
    return f"{chain_id}.{run}"


def run_of(task: str, index: int) -> str:
    """The id, inside the chain, of an item or round of a task."""
    return f"{task}.{index}"


def chain_of(global_run_id: str) -> str:
    """The chain of a run. Cheap: the id is not checked."""
    return global_run_id.partition(".")[0]


def run_in_chain(global_run_id: str) -> str:
    """The id of a run inside its chain. Cheap: the id is not checked."""
    return global_run_id.partition(".")[2]


def task_of(run: str) -> str:
    """The task of a run, both by their ids inside the chain. Cheap: the id is not checked."""
    return run.partition(".")[0]
