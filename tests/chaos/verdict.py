"""What was promised, held against what happened. Each check yields a sentence for each breach, and nothing else."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from aicp.model.chain import ChainSpec
from aicp.model.event import ChainCancelled, ChainEnded, Fact, TaskEnded, TaskStarted
from aicp.model.task import Task, TaskStatus
from aicp.ports import ChainRecord
from tests.chaos.executions import Execution
from tests.chaos.history import History, Ordered
from tests.chaos.load import LOST

# What was sent before a strike, or before a cancel was confirmed, may reach an agent that is slow to read a bit later.
UNDER_WAY_S = 2.0
NEVER_RUN = (TaskStatus.CANCELLED, TaskStatus.SKIPPED)


class Case(msgspec.Struct, frozen=True):
    """One order and all that came of it.

    Attributes:
        history: Of the siege it was part of.
        order: What was asked for, and told.
        record: The chain in the database.
        ends: The recorded end of each task.
        executions: Of each task, in the order in which they began, without stragglers.
        stragglers: Of each task: sent by an owner that was then struck, and late to begin at a slow agent.
    """

    history: History
    order: Ordered
    record: ChainRecord
    ends: Mapping[str, TaskEnded]
    executions: Mapping[str, Sequence[Execution]]
    stragglers: Mapping[str, Sequence[Execution]]

    @property
    def spec(self) -> ChainSpec:
        return self.order.spec

    @property
    def is_cancelled(self) -> bool:
        return any(isinstance(fact, ChainCancelled) for fact in self.record.facts)

    def kept(self, task: str) -> str:
        """The execution whose result is on record, or `lost`."""
        end = self.ends.get(task)
        return end.result.result["execution"] if end is not None and _is_completed(end) else LOST


def breaches(history: History) -> list[str]:
    """Every promise that was broken; none is what one wants."""
    found = list(_strangers(history))
    executions: dict[str, list[Execution]] = defaultdict(list)
    for execution in history.executions:
        executions[execution.key].append(execution)
    for order in history.orders:
        found += lost_or_doubled(order, history.records)
        for chain_id in order.chain_ids & history.records.keys():
            case = _case(history, order, history.records[chain_id], executions)
            found += [f"{order.key}: {breach}" for check in CHECKS for breach in check(case)]
    return found


def _case(history: History, order: Ordered, record: ChainRecord, executions: Mapping[str, Sequence[Execution]]) -> Case:
    chain_id = record.submitted.chain_id
    ends = {fact.task: fact for fact in record.facts if isinstance(fact, TaskEnded)}
    done = {task.id: executions.get(f"{chain_id}.{task.id}", ()) for task in order.spec.tasks}
    late = {each.id for each in _stragglers(history, ends, done)}
    return Case(
        history, order, record, ends,
        {task: [each for each in several if each.id not in late] for task, several in done.items()},
        {task: [each for each in several if each.id in late] for task, several in done.items()},
    )  # fmt: skip


def _stragglers(
    history: History, ends: Mapping[str, TaskEnded], executions: Mapping[str, Sequence[Execution]]
) -> Iterator[Execution]:
    """What an owner sent before it was struck, and began when the next one had gone on: peers need no restart."""
    highest = 0
    begun = sorted((each for several in executions.values() for each in several), key=lambda each: each.began_at)
    for each in begun:
        is_overtaken = each.token[0] < highest or _is_given_up(ends.get(each.task), each)
        if is_overtaken and _was_under_way(history, each):
            yield each
        highest = max(highest, each.token[0])


def _is_given_up(end: TaskEnded | None, execution: Execution) -> bool:
    """True when its task had ended as unknown before: it was sent, and then its owner was struck."""
    return end is not None and not _is_completed(end) and _ended_before(end, execution)


def _ended_before(end: TaskEnded, execution: Execution) -> bool:
    return end.result.ended_at is not None and execution.began_at_utc > end.result.ended_at


def _was_under_way(history: History, execution: Execution) -> bool:
    began_at = execution.began_at
    return any(strike.at <= began_at <= strike.over_at + UNDER_WAY_S for strike in history.strikes)


def _strangers(history: History) -> Iterator[str]:
    """The database has the chains that were ordered and no other, and agents had no other work."""
    known = {chain_id for order in history.orders for chain_id in order.chain_ids}
    for chain_id, record in history.records.items():
        if chain_id not in known:
            yield f"chain {chain_id} ({record.submitted.spec.name}) is on record, and nobody was told of it"
    for execution in history.executions:
        if execution.chain_id not in known:
            yield f"{execution.key} was executed and nobody was told of its chain"


def lost_or_doubled(order: Ordered, records: Mapping[str, ChainRecord]) -> Iterator[str]:
    """One chain for each key, and it is on record as it was sent."""
    if len(order.chain_ids) != 1:
        yield f"{order.key}: {len(order.chain_ids)} chains for one key: {sorted(order.chain_ids)}"
    for chain_id in order.chain_ids:
        if chain_id not in records:
            yield f"{order.key}: chain {chain_id} was acknowledged and is lost"
        elif records[chain_id].submitted.spec != order.spec:
            yield f"{order.key}: chain {chain_id} is on record as something else"


def not_ended(case: Case) -> Iterator[str]:
    """The chain has one end, its last fact; every task has one; the customer was told that end."""
    facts = case.record.facts
    ends = [fact for fact in facts if isinstance(fact, ChainEnded)]
    if len(ends) != 1 or facts[-1] is not ends[0]:
        yield f"has {len(ends)} ends, and its last fact is {type(facts[-1]).__name__ if facts else 'its submit'}"
        return
    wanted = TaskStatus.CANCELLED if case.is_cancelled else TaskStatus.COMPLETED
    if not ends[0].status is case.order.status is wanted:
        yield f"ended {ends[0].status}, the customer was told {case.order.status}, and {wanted} is right"
    # One that was recorded again, since the answer got lost, is the same one.
    counted = [fact.task for fact in _distinct(facts) if isinstance(fact, TaskEnded)]
    if len(counted) != len(set(counted)):
        yield "has two ends of one task on record"
    if not case.is_cancelled and set(counted) != {task.id for task in case.spec.tasks}:
        yield f"ended without an end of {sorted({task.id for task in case.spec.tasks} - set(counted))}"


def failed_for_no_reason(case: Case) -> Iterator[str]:
    """A task is COMPLETED; or cut off by a cancel; or it must not be done twice, was started, and then struck."""
    for task in case.spec.tasks:
        end = case.ends.get(task.id)
        if end is None or _is_completed(end) or (case.is_cancelled and end.result.status is TaskStatus.CANCELLED):
            continue
        error = end.result.error
        if task.idempotent or error is None or error.code != "outcome_unknown" or not _was_cut_off(case, task):
            yield f"{task.id} ended {end.result.status}: {error}"


def _was_cut_off(case: Case, task: Task) -> bool:
    started = [fact.at for fact in case.record.facts if isinstance(fact, TaskStarted) and fact.task == task.id]
    return any(at <= strike.over_at_utc for at in started for strike in case.history.strikes)


def run_again_after_its_result(case: Case) -> Iterator[str]:
    """What is on record is the result of an execution, and none began once that result was there."""
    for task, executions in case.executions.items():
        kept, end = case.kept(task), case.ends.get(task)
        if kept != LOST and kept not in {execution.id for execution in (*executions, *case.stragglers[task])}:
            yield f"{task} has a result of an execution that nobody knows"
        late = [each for each in executions if end is not None and _ended_before(end, each)]
        if end is not None and late and not case.is_cancelled:
            yield f"{task} ended at {end.result.ended_at}, and an execution of it began at {late[0].began_at_utc}"


def out_of_order(case: Case) -> Iterator[str]:
    """Nothing begins before what it waits for is on record, and it is given what is on record."""
    for task in case.spec.tasks:
        for execution in case.executions[task.id]:
            for awaited in awaited_by(task):
                if not _had_ended(case, awaited, execution):
                    yield f"{task.id} began before {awaited} had ended"
            for read, given in execution.given.items():
                if given != case.kept(read):
                    yield f"{task.id} was given a result of {read} that is not the one on record"


def _had_ended(case: Case, awaited: str, execution: Execution) -> bool:
    end, kept = case.ends.get(awaited), case.kept(awaited)
    if kept == LOST:
        return end is not None and all(each.began_at < execution.began_at for each in case.executions[awaited])
    known = (*case.executions[awaited], *case.stragglers[awaited])
    ends = [each.ended_at for each in known if each.id == kept]
    return any(at is not None and at < execution.began_at for at in ends)


def awaited_by(task: Task) -> set[str]:
    """The tasks it waits for."""
    return {*task.depends_on, *task.params["given"]}


def run_twice_for_no_reason(case: Case) -> Iterator[str]:
    """A task runs again only by another owner, and only what was in flight at a strike."""
    for task, executions in case.executions.items():
        for first, second in itertools.pairwise(executions):
            if second.token[0] <= first.token[0]:
                yield f"{task} was run twice by one owner: {first.token}, {second.token}"
            strikes = [strike for strike in case.history.strikes if strike.at <= second.began_at]
            if not strikes or first.began_at > max(strike.over_at for strike in strikes) + UNDER_WAY_S:
                began = [f"{each.began_at - strikes[-1].at:.3f} s" for each in (first, second) if strikes]
                yield f"{task} was run twice, and nothing was struck in between; behind the last strike: {began}"


def run_twice_though_forbidden(case: Case) -> Iterator[str]:
    """What is not idempotent is sent at most once, and its start is on record before."""
    started = [fact.task for fact in _distinct(case.record.facts) if isinstance(fact, TaskStarted)]
    for task in case.spec.tasks:
        executions = (*case.executions[task.id], *case.stragglers[task.id])
        if not task.idempotent and len(executions) > 1:
            yield f"{task.id} must not be run twice and was run {len(executions)} times"
        if started.count(task.id) > 1 or (executions and not task.idempotent and task.id not in started):
            yield f"{task.id} must not be run twice and has {started.count(task.id)} starts on record"


def tokens_that_fall(case: Case) -> Iterator[str]:
    """The tokens of a task rise, and the epochs of a chain do not fall."""
    for task, executions in case.executions.items():
        for first, second in itertools.pairwise(executions):
            if second.token <= first.token:
                yield f"{task}: token {second.token} after {first.token}"
    begun = sorted((each for several in case.executions.values() for each in several), key=lambda each: each.began_at)
    for first, second in itertools.pairwise(begun):
        if second.token[0] < first.token[0]:
            yield f"epoch {second.token[0]} ({second.task}) after epoch {first.token[0]} ({first.task})"


def cancelled_in_vain(case: Case) -> Iterator[str]:
    """Once a cancel is confirmed nothing is sent, and the chain is CANCELLED for ever."""
    confirmed_at = case.order.cancelled_at
    if confirmed_at is None:
        return
    if not case.is_cancelled:
        yield "was cancelled, says the server, and is not on record as such"
    for executions in case.executions.values():
        for execution in executions:
            if execution.began_at > confirmed_at + UNDER_WAY_S:
                yield f"{execution.task} began {execution.began_at - confirmed_at:.3f} s after the cancel was confirmed"


def seen_otherwise(case: Case) -> Iterator[str]:
    """What a customer once saw as ended is on record just so."""
    for task, seen in case.order.seen.items():
        end = case.ends.get(task)
        recorded = None if end is None else (end.result.status.value, case.kept(task) if _is_completed(end) else "")
        for told in seen:
            if recorded != told and not (case.is_cancelled and recorded is None and told[0] in NEVER_RUN):
                yield f"{task} was shown as {told} and is on record as {recorded}"


def _distinct(facts: Sequence[Fact]) -> list[Fact]:
    return [fact for place, fact in enumerate(facts) if fact not in facts[:place]]


def _is_completed(end: TaskEnded) -> bool:
    return end.result.status is TaskStatus.COMPLETED


CHECKS = (
    not_ended,
    failed_for_no_reason,
    run_again_after_its_result,
    out_of_order,
    run_twice_for_no_reason,
    run_twice_though_forbidden,
    tokens_that_fall,
    cancelled_in_vain,
    seen_otherwise,
)
