"""What people see of tasks, chains, agents and the fleet: made by the core, sent by the server, read by the client.

A client ignores fields that a newer server adds.
"""

from datetime import datetime
from typing import Any

import msgspec

from aicp.errors import Fault
from aicp.model.agent import Capability
from aicp.model.outcome import Outcome, TaskError
from aicp.model.task import Attempt, Phase, TaskKind, TaskStatus


class TaskStanding(msgspec.Struct, frozen=True, omit_defaults=True):
    """A task in short.

    Attributes:
        task_id: Its global id.
        status: Where it stands.
        cancelling: True when its cancel is on record, and another replica that runs it has yet to come to it.
        expected_s: Of a submit that will probably outlast its own deadline: how long after it the last task would end,
            seconds, at the present rate. None, and left out, for any other.
        warning: The same in a sentence, with what can be done.
    """

    task_id: str
    status: TaskStatus
    cancelling: bool = False
    expected_s: float | None = None
    warning: str | None = None


class ChainStanding(msgspec.Struct, frozen=True, omit_defaults=True):
    """A chain in short.

    Attributes:
        chain_id: Its id.
        status: Where it stands.
        cancelling: True when its cancel is on record, and another replica that runs it has yet to come to it.
        expected_s: Of a submit that will probably outlast its own deadline: how long after it the last task would end,
            seconds, at the present rate. None, and left out, for any other.
        warning: The same in a sentence, with what can be done.
    """

    chain_id: str
    status: TaskStatus
    cancelling: bool = False
    expected_s: float | None = None
    warning: str | None = None


class ParallelAccepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tasks that run side by side.

    Attributes:
        chain_id: The chain that they are.
        task_ids: Their global ids, in their order.
        expected_s: Of a submit that will probably outlast its own deadline: how long after it the last task would end,
            seconds, at the present rate. None, and left out, for any other.
        warning: The same in a sentence, with what can be done.
    """

    chain_id: str
    task_ids: list[str]
    expected_s: float | None = None
    warning: str | None = None


class Timings(msgspec.Struct, frozen=True):
    """Where a task's time went, seconds; None where it did not get there.

    Attributes:
        queued_s: From ready to the first attempt.
        running_s: From the first attempt to the end.
        total_s: From ready to the end.
    """

    queued_s: float | None = None
    running_s: float | None = None
    total_s: float | None = None


class TaskView(msgspec.Struct, frozen=True):
    """A task.

    Attributes:
        task_id: Global id.
        capability: What was asked for.
        status: Where it stands.
        result: Its result once COMPLETED, JSON.
        error: Why there is none.
        agent_id: Who had it last.
        attempts: What was tried.
        timings: Where its time went.
        ready_at: UTC.
        started_at: UTC.
        ended_at: UTC.
        kind: What carries it out.
        phase: What it waits for; None once it has ended, and where that is not known here.
        expected_s: In the answer to a submit that will probably outlast its own deadline: how long after it the last
            task would end, seconds, at the present rate. Left out anywhere else.
        warning: The same in a sentence, with what can be done.
    """

    task_id: str
    capability: str
    status: TaskStatus
    result: Any
    error: TaskError | None
    agent_id: str | None
    attempts: tuple[Attempt, ...]
    timings: Timings
    ready_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    kind: TaskKind = TaskKind.AGENT
    phase: Phase | None = None
    expected_s: float | msgspec.UnsetType = msgspec.UNSET
    warning: str | msgspec.UnsetType = msgspec.UNSET


class Choice(msgspec.Struct, frozen=True, gc=False):
    """Why an attempt went where it went.

    Attributes:
        attempt: Its number.
        agent_id: Who was chosen.
        shared: True for an agent that serves every tenant; those are looked at second.
        waited_s: How long the task stood in line for this attempt, seconds.
        estimate_s: How long the agent was expected to take; None when nobody knew.
        free: Of those like it, how many had a slot left after this one was chosen; faster ones would have been taken.
        usable: Of those like it, who could be used, free or busy.
        agents: Who offered the capability, to the same tenants as the one that was chosen.
    """

    attempt: int
    agent_id: str
    shared: bool
    waited_s: float
    estimate_s: float | None
    free: int
    usable: int
    agents: int


class Candidate(msgspec.Struct, frozen=True):
    """What an agent is to a task now.

    Attributes:
        agent_id: Who.
        standing: `free`, `busy`, `silent` (has tasks and answers nothing: one more at a time), `out` or `left_out`.
        reason: Why it is out, left out, silent, or a last resort: `unheard, so a last resort`.
        estimate_s: How long it is expected to take, seconds; None when nobody knows.
        measured: True when that rests on its own successes, False when it is what others take.
        slots: How many tasks it takes at a time.
        taken: How many it has.
        retry_after_s: For one that is out: seconds until it may be used again; None when only a command brings it back.
        shared: True when it serves every tenant; those are looked at second.
    """

    agent_id: str
    standing: str
    reason: str
    estimate_s: float | None
    measured: bool
    slots: int
    taken: int
    retry_after_s: float | None
    shared: bool


class LinePlace(msgspec.Struct, frozen=True):
    """A task's place in line.

    Attributes:
        ahead: Tasks that are served before it, as things stand.
        waiting: Everybody in the same line, by priority.
        waited_s: Since when it stands there, seconds.
        expected_wait_s: How long one more task of its priority would wait, seconds; 0 when nobody knows.
        patient_for_s: How much longer it leaves slower agents alone since a faster one is expected, seconds.
    """

    ahead: int
    waiting: dict[str, int]
    waited_s: float
    expected_wait_s: float
    patient_for_s: float


class Outlook(msgspec.Struct, frozen=True):
    """Who could do a task now.

    Attributes:
        agents: Who offer the capability to its tenant.
        usable: Of those, who are not out.
        free: Of those, who have a slot.
        candidates: The best twenty and, after them, those that are out or left out; at most a thousand are looked at.
        place: Its place in line; None while it does not stand there.
    """

    agents: int
    usable: int
    free: int
    candidates: tuple[Candidate, ...]
    place: LinePlace | None


class Explanation(msgspec.Struct, frozen=True):
    """Why a task went where it went, and what it waits for.

    Attributes:
        task_id: Global id.
        capability: What was asked for.
        priority: Of the task.
        status: Where it stands.
        choices: Why each attempt went where it went; remembered for the last 10,000 tasks of this process.
        attempts: How they ended.
        outlook: Who could do it now.
    """

    task_id: str
    capability: str
    priority: str
    status: TaskStatus
    choices: tuple[Choice, ...]
    attempts: tuple[Attempt, ...]
    outlook: Outlook


class ChainView(msgspec.Struct, frozen=True):
    """A chain.

    Attributes:
        chain_id: Its id.
        name: What people call it.
        status: Where it stands.
        total_tasks: How many it has.
        completed_tasks: Of those, how many are COMPLETED.
        tasks: By local id.
        edges: Every (task, dependent).
        error: Why it failed.
        started_at: When it was submitted, UTC.
        ended_at: UTC.
        retry_of: The chain it repeats, or None.
        expected_s: In the answer to a submit that will probably outlast its own deadline: how long after it the last
            task would end, seconds, at the present rate. Left out anywhere else.
        warning: The same in a sentence, with what can be done.
    """

    chain_id: str
    name: str
    status: TaskStatus
    total_tasks: int
    completed_tasks: int
    tasks: dict[str, TaskView]
    edges: list[tuple[str, str]]
    error: TaskError | None
    started_at: datetime
    ended_at: datetime | None
    retry_of: str | None = None
    expected_s: float | msgspec.UnsetType = msgspec.UNSET
    warning: str | msgspec.UnsetType = msgspec.UNSET


class ShortTask(msgspec.Struct, frozen=True):
    """A task of a chain in short: everything but its result.

    Attributes:
        task_id: Global id.
        capability: What was asked for.
        status: Where it stands.
        error: Why there is no result.
        agent_id: Who had it last.
        attempts: What was tried.
        timings: Where its time went.
        ready_at: UTC.
        started_at: UTC.
        ended_at: UTC.
        kind: What carries it out.
        phase: What it waits for; None once it has ended, and where that is not known here.
    """

    task_id: str
    capability: str
    status: TaskStatus
    error: TaskError | None
    agent_id: str | None
    attempts: tuple[Attempt, ...]
    timings: Timings
    ready_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    kind: TaskKind = TaskKind.AGENT
    phase: Phase | None = None


class ChainChanges(msgspec.Struct, frozen=True):
    """A chain in short, and those of its tasks that changed.

    Attributes:
        chain_id: Its id.
        name: What people call it.
        status: Where it stands.
        total_tasks: How many it has.
        completed_tasks: Of those, how many are COMPLETED.
        tasks: By local id: all of them, or those that changed.
        error: Why it failed.
        started_at: When it was submitted, UTC.
        ended_at: UTC.
        retry_of: The chain it repeats, or None.
        seq: How much of it is told: what to ask for the next changes with.
        edges: Every (task, dependent), when all tasks are told.
    """

    chain_id: str
    name: str
    status: TaskStatus
    total_tasks: int
    completed_tasks: int
    tasks: dict[str, ShortTask]
    error: TaskError | None
    started_at: datetime
    ended_at: datetime | None
    retry_of: str | None
    seq: str
    edges: list[tuple[str, str]] | msgspec.UnsetType = msgspec.UNSET


class ListedTask(msgspec.Struct, frozen=True):
    """A task in a list: everything but its result.

    Attributes:
        task_id: Global id.
        chain_id: Of its chain; a task on its own has one too.
        capability: What was asked for.
        status: Where it stands.
        error: Why there is no result.
        agent_id: Who had it last.
        attempts: What was tried.
        timings: Where its time went.
        submitted_at: When its chain was, UTC.
        ready_at: UTC.
        started_at: UTC.
        ended_at: UTC.
        kind: What carries it out.
        phase: What it waits for; None once it has ended, and where that is not known here.
    """

    task_id: str
    chain_id: str
    capability: str
    status: TaskStatus
    error: TaskError | None
    agent_id: str | None
    attempts: tuple[Attempt, ...]
    timings: Timings
    submitted_at: datetime
    ready_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    kind: TaskKind = TaskKind.AGENT
    phase: Phase | None = None


class TaskPage(msgspec.Struct, frozen=True):
    """Tasks, newest chain first, one page; it may have fewer than were asked for, and yet another one behind it.

    Attributes:
        tasks: Of this page.
        next_cursor: For the page after; None on the last.
    """

    tasks: list[ListedTask]
    next_cursor: str | None


class ListedChain(msgspec.Struct, frozen=True):
    """A chain in a list.

    Attributes:
        chain_id: Its id.
        name: What people call it.
        status: Where it stands.
        total_tasks: How many it has.
        started_at: When it was submitted, UTC.
        ended_at: UTC.
        retry_of: The chain it repeats, or None.
    """

    chain_id: str
    name: str
    status: TaskStatus
    total_tasks: int
    started_at: datetime
    ended_at: datetime | None
    retry_of: str | None


class ChainPage(msgspec.Struct, frozen=True):
    """Chains, newest first, one page; it may have fewer than were asked for, and yet another one behind it.

    Attributes:
        chains: Of this page.
        next_cursor: For the page after; None on the last.
    """

    chains: list[ListedChain]
    next_cursor: str | None


class LeaseTerms(msgspec.Struct, frozen=True):
    """What an agent promises when it registers.

    Attributes:
        ttl_s: It is unheard when silent for so long.
        heartbeat_every_s: How often it should be heard.
    """

    ttl_s: float
    heartbeat_every_s: float


class Registered(msgspec.Struct, frozen=True, omit_defaults=True):
    """An agent that was taken in.

    Attributes:
        agent_id: Under which it is known.
        lease: What it promises; None when it sends no heartbeats.
        warnings: Parts of its schemas that are not checked, with their places and the reason; at most 100.
    """

    agent_id: str
    lease: LeaseTerms | None
    warnings: tuple[Fault, ...] = ()


class Heard(msgspec.Struct, frozen=True):
    """Answer to a heartbeat.

    Attributes:
        lease: What the agent promises.
    """

    lease: LeaseTerms


class AgentView(msgspec.Struct, frozen=True):
    """An agent.

    Attributes:
        agent_id: Who it is.
        name: What people call it; empty when it is its id.
        endpoint: Its base URL; None for a callable of the server's process.
        instance_id: Changes with every start of it.
        capabilities: What it can do.
        max_concurrent_tasks: Its slots.
        taken: How many of them are taken.
        labels: Free key-value pairs.
        shared: True when it serves every tenant.
        liveness: HEARD, UNHEARD or OFFLINE.
        state: The worst of its circuits.
        draining: True when it gets no new tasks.
        registered_at: When it last registered, UTC.
        lease: True when it sends heartbeats; False for one that is asked how it is, or lives in the server.
        silent_s: Seconds since it was heard; None for one that sends no heartbeats.
        latency_ms: Mean over its measured capabilities; None while none is.
        success_rate: 0 to 1; None while nothing was tried.
        why_out: For what it may not be used now, and why.
        tenant: Whose it is; None for another tenant's that is shared.
        owner: The id of the API key that registered it; None for none, and for another tenant's.
    """

    agent_id: str
    name: str
    endpoint: str | None
    instance_id: str
    capabilities: tuple[Capability, ...]
    max_concurrent_tasks: int
    taken: int
    labels: dict[str, str]
    shared: bool
    liveness: str
    state: str
    draining: bool
    registered_at: datetime | None
    lease: bool = True
    silent_s: float | None = None
    latency_ms: float | None = None
    success_rate: float | None = None
    why_out: dict[str, str] = {}
    tenant: str | None = None
    owner: str | None = None


class AgentPage(msgspec.Struct, frozen=True):
    """Agents by id, one page.

    Attributes:
        agents: Of this page.
        next_cursor: For the page after; None on the last.
    """

    agents: list[AgentView]
    next_cursor: str | None


class CapabilityHealth(msgspec.Struct, frozen=True, gc=False):
    """One agent at one capability.

    Attributes:
        state: Of the circuit.
        why_out: Why it may not be used; empty when it may.
        retry_after_s: Seconds until it may be tried; None when somebody must act first.
        latency_ms: Smoothed milliseconds of its successes; None while unmeasured.
        reason: For one that was set aside: what showed that it is misconfigured.
    """

    state: str
    why_out: str
    retry_after_s: float | None
    latency_ms: float | None
    reason: str = ""


class AgentHealth(msgspec.Struct, frozen=True, gc=False):
    """One agent's health.

    Attributes:
        state: The worst of its circuits.
        liveness: Whether it is heard.
        failure_count: Attempts that failed at it.
        success_count: Attempts that succeeded.
        total_rejections: Permits its circuits refused.
        retry_after_s: Seconds until every circuit may be tried; None when somebody must act first.
        backoff_s: The longest current wait of its circuits.
        latency_ms: Mean over its measured capabilities; None while none is.
        success_rate: 0 to 1; None while nothing was tried.
        slots: How many tasks it takes at a time.
        taken: How many it has.
        draining: True when it gets no new ones.
        capabilities: Each by key.
    """

    state: str
    liveness: str
    failure_count: int
    success_count: int
    total_rejections: int
    retry_after_s: float | None
    backoff_s: float
    latency_ms: float | None
    success_rate: float | None
    slots: int
    taken: int
    draining: bool
    capabilities: dict[str, CapabilityHealth]


class FleetHealth(msgspec.Struct, frozen=True):
    """The fleet's health.

    Attributes:
        total_agents: Registered.
        healthy_agents: Of those, who may be used for everything they offer.
        open_circuits: Circuits that admit nobody.
        half_open_circuits: Circuits that admit probes.
        capabilities_out: Capabilities that have nobody.
        agents: By id.
    """

    total_agents: int
    healthy_agents: int
    open_circuits: int
    half_open_circuits: int
    capabilities_out: list[str]
    agents: dict[str, AgentHealth]


class Failure(msgspec.Struct, frozen=True):
    """An attempt that failed.

    Attributes:
        task_id: Global id.
        agent_id: Who was tried.
        capability: For what.
        outcome: How it ended.
        reason: Why.
        timestamp: UTC.
    """

    task_id: str
    agent_id: str
    capability: str
    outcome: Outcome
    reason: str
    timestamp: datetime


class AgentState(msgspec.Struct, frozen=True):
    """An agent's circuits after a command.

    Attributes:
        agent_id: Whose.
        state: The worst of them.
    """

    agent_id: str
    state: str


class CapabilityStatus(msgspec.Struct, frozen=True):
    """One capability in the scheduler's eyes.

    Attributes:
        agents: Who offer it.
        usable: Of those, who are not out.
        free: Of those, who have a slot now.
        free_slots: How many slots they have.
        queue_depth: Tasks in line.
        waiting: The same by priority: `high`, `normal`, `low`.
        oldest_wait_s: Of those, the longest wait in seconds.
        expected_wait_s: How long one more would wait, 0 when nobody knows.
        refused: Tasks not taken in, since they would have waited beyond their deadline.
    """

    agents: int
    usable: int
    free: int
    free_slots: int
    queue_depth: int
    waiting: dict[str, int]
    oldest_wait_s: float
    expected_wait_s: float
    refused: int


class SchedulerStatus(msgspec.Struct, frozen=True):
    """The scheduler at a glance.

    Attributes:
        agents_count: Registered.
        total_capacity: All their slots.
        current_load: Slots taken.
        utilization_percentage: Of the capacity.
        queue_depth: Tasks in line.
        oldest_wait_s: Seconds.
        by_capability: The same, by capability key.
        expired_leases: Slots that were never given back, and freed by their lease's end. It is an alarm.
    """

    agents_count: int
    total_capacity: int
    current_load: int
    utilization_percentage: float
    queue_depth: int
    oldest_wait_s: float
    by_capability: dict[str, CapabilityStatus]
    expired_leases: int = 0


class Info(msgspec.Struct, frozen=True):
    """What the server is.

    Attributes:
        name: `aicp`.
        version: Its version.
        durable: True when what it accepted survives its process.
        unfinished_tasks: Accepted and not ended.
        journal: Where it remembers: `memory`, `sqlite` or `postgresql`.
    """

    name: str
    version: str
    durable: bool
    unfinished_tasks: int
    journal: str = "memory"
