"""Facts: what is recorded of a chain.

Folded over the spec they give where the chain stands. Each has a name, and a fact that is recorded twice counts once.
Fields that came later are left out of the JSON while they have their default, so that rows stay what they were.
"""

from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from aicp.model.agent import DEFAULT_TENANT
from aicp.model.chain import ChainSpec
from aicp.model.json_fields import always_written
from aicp.model.outcome import TaskError
from aicp.model.task import TaskResult, TaskStatus


class FactName(NamedTuple):
    """Which fact of a chain it is: two facts of one name are the same fact, recorded twice since an answer got lost.

    Attributes:
        kind: As in its JSON.
        task: The task or run it is about, by its id inside the chain; empty for the chain.
        number: Of the attempt; 0 for none.
        key: Of the question; empty for none.
    """

    kind: str
    task: str = ""
    number: int = 0
    key: str = ""


class _Fact(msgspec.Struct, frozen=True):
    """What all facts have in common."""

    @property
    def name(self) -> FactName:
        """Which fact of its chain this is."""
        kind = str(self.__struct_config__.tag)
        return FactName(kind, getattr(self, "task", ""), getattr(self, "number", 0), getattr(self, "key", ""))


class Share(msgspec.Struct, frozen=True, gc=False):
    """What a chain that another one started may use of the room of their family.

    Attributes:
        runs: Task runs.
        chains: Unfinished chains.
        depth: Levels of chains below it.
    """

    runs: int
    chains: int
    depth: int


class TemplateUse(msgspec.Struct, frozen=True, gc=False):
    """The template that a chain was made from.

    Attributes:
        name: Of the template.
        version: As it is written.
        digest: SHA-256 of the document, hexadecimal.
    """

    name: str
    version: str
    digest: str


class Hold(msgspec.Struct, frozen=True):
    """Money that is set aside for a chain from its submit to its end.

    Attributes:
        asset: What is counted.
        amount: In the smallest unit of the asset.
        account: Whose money; empty for nobody's.
        budgets: Ids of the budgets it is part of.
    """

    asset: str
    amount: int
    account: str = ""
    budgets: tuple[str, ...] = ()


class ChainSubmitted(_Fact, frozen=True, omit_defaults=True, tag_field="kind", tag="chain_submitted"):
    """Fact: a chain was accepted.

    The fields from `allowed` on are read by this version, and not written yet.

    Attributes:
        chain_id: Its id.
        spec: What it is.
        at: UTC.
        tenant: Whose it is.
        retry_of: The chain it repeats, or None.
        traceparent: The trace that the request named, or None for one of its own.
        key_id: Of the API key it was submitted with; empty for none.
        allowed: The capabilities that the key was made for; None for any.
        parent: The task that started it, global id; None for none.
        share: What it may use of its family's room; None for a chain without a parent.
        template: What it was made from; None for nothing.
        inputs: Of the template; None without one.
        start_at: UTC; before it nothing starts. None for at once.
        hold: Money set aside for it; None for none.
        cost_center: What its costs are counted under; empty for nothing.
    """

    chain_id: str
    spec: ChainSpec
    at: datetime
    tenant: str = always_written(DEFAULT_TENANT)
    retry_of: str | None = always_written(None)
    traceparent: str | None = always_written(None)
    key_id: str = always_written("")
    allowed: tuple[str, ...] | None = None
    parent: str | None = None
    share: Share | None = None
    template: TemplateUse | None = None
    inputs: dict[str, Any] | None = None
    start_at: datetime | None = None
    hold: Hold | None = None
    cost_center: str = ""


class TaskStarted(_Fact, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="task_started"):
    """Fact: a run is about to be sent. One that is not idempotent is never sent again by a later owner.

    Recorded before each send of a task that is not idempotent.

    Attributes:
        chain_id: Its chain.
        task: The run, by its id inside the chain.
        at: UTC.
        number: Of the attempt, from 1.
        agent_id: The agent it is sent to; empty where that was not recorded.
        worst: The most that the attempt may cost, in the smallest unit of the hold's asset; None for nothing.
    """

    chain_id: str
    task: str
    at: datetime
    number: int = 1
    agent_id: str = ""
    worst: int | None = None


class TaskExpanded(_Fact, frozen=True, gc=False, tag_field="kind", tag="task_expanded"):
    """Fact: a mapped task has so many items; their runs are `<task>.0` and so on.

    Attributes:
        chain_id: Its chain.
        task: Its id inside the chain.
        count: How many; 0 for an empty list.
        at: UTC.
    """

    chain_id: str
    task: str
    count: int
    at: datetime


class AttemptAccepted(_Fact, frozen=True, gc=False, tag_field="kind", tag="attempt_accepted"):
    """Fact: an agent has accepted an attempt, which goes on even when its owner ends.

    Attributes:
        chain_id: Its chain.
        task: The run, by its id inside the chain.
        number: Of the attempt.
        agent_id: The agent that has it.
        instance_id: Which start of that agent.
        ref: What the agent calls it.
        at: UTC.
    """

    chain_id: str
    task: str
    number: int
    agent_id: str
    instance_id: str
    ref: str
    at: datetime


class QuestionAsked(_Fact, frozen=True, omit_defaults=True, tag_field="kind", tag="question_asked"):
    """Fact: an attempt waits for an answer from outside.

    Attributes:
        chain_id: Its chain.
        task: The run, by its id inside the chain.
        number: Of the attempt.
        key: Of the question, unique in the attempt.
        prompt: What is asked, for people.
        at: UTC.
        schema: What the answer must be, JSON Schema; None for anything.
        url: Where a person goes to answer; empty for nowhere.
    """

    chain_id: str
    task: str
    number: int
    key: str
    prompt: str
    at: datetime
    schema: dict[str, Any] | None = None
    url: str = ""


class AnswerGiven(_Fact, frozen=True, omit_defaults=True, tag_field="kind", tag="answer_given"):
    """Fact: a question has its answer; the first one counts.

    Attributes:
        chain_id: Its chain.
        task: The run, by its id inside the chain.
        number: Of the attempt; 0 for a wait.
        key: Of the question; empty for a wait.
        at: UTC.
        value: The answer, JSON; None beside an error.
        error: The answer when it is a refusal; None for a value.
        by: Id of the API key that answered; empty for none.
    """

    chain_id: str
    task: str
    number: int
    key: str
    at: datetime
    value: Any = None
    error: TaskError | None = None
    by: str = ""


class TaskEnded(_Fact, frozen=True, gc=False, tag_field="kind", tag="task_ended"):
    """Fact: a run reached its end.

    Attributes:
        chain_id: Its chain.
        task: The run, by its id inside the chain.
        result: How it ended.
    """

    chain_id: str
    task: str
    result: TaskResult


class ChainCancelled(_Fact, frozen=True, gc=False, tag_field="kind", tag="chain_cancelled"):
    """Fact: the chain was cancelled; no attempt starts from now on.

    Attributes:
        chain_id: Its id.
        at: UTC.
    """

    chain_id: str
    at: datetime


class ChainStopped(_Fact, frozen=True, omit_defaults=True, tag_field="kind", tag="chain_stopped"):
    """Fact: the chain's end is decided, and tasks that always run are left; nothing else starts from now on.

    Attributes:
        chain_id: Its id.
        status: COMPLETED or FAILED: how it will end.
        at: UTC.
        error: Why it failed.
        output: Its result, JSON.
    """

    chain_id: str
    status: TaskStatus
    at: datetime
    error: TaskError | None = None
    output: Any = None


class ChainEnded(_Fact, frozen=True, gc=False, omit_defaults=True, tag_field="kind", tag="chain_ended"):
    """Fact: nothing of the chain will run any more.

    Attributes:
        chain_id: Its id.
        status: COMPLETED, FAILED or CANCELLED.
        at: UTC.
        error: Why it failed.
        output: Its result, JSON; None for a chain without one.
    """

    chain_id: str
    status: TaskStatus
    at: datetime
    error: TaskError | None = always_written(None)
    output: Any = None


Fact = (
    ChainSubmitted
    | TaskStarted
    | TaskExpanded
    | AttemptAccepted
    | QuestionAsked
    | AnswerGiven
    | TaskEnded
    | ChainCancelled
    | ChainStopped
    | ChainEnded
)
