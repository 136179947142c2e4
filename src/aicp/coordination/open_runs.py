"""What is on record of runs that have not ended: their attempts, what an agent has accepted, and open questions."""

import msgspec

from aicp.model.fact import AnswerGiven, AttemptAccepted, QuestionAsked, TaskStarted
from aicp.model.run_id import task_of
from aicp.model.task import Phase

OfRun = TaskStarted | AttemptAccepted | QuestionAsked | AnswerGiven


class OpenRun(msgspec.Struct, frozen=True):
    """A run with an attempt on record, and without an end.

    Attributes:
        number: Of its last attempt on record, from 1; 0 for a wait.
        is_started: True when a send of it is on record.
        accepted: The last attempt, if its agent has accepted it.
        asked: Questions of the last attempt without an answer, the oldest first.
        answers: Every answer, by attempt and key.
    """

    number: int = 0
    is_started: bool = False
    accepted: AttemptAccepted | None = None
    asked: tuple[QuestionAsked, ...] = ()
    answers: dict[tuple[int, str], AnswerGiven] = {}

    def with_fact(self, fact: OfRun) -> "OpenRun":
        """The run after a fact about it."""
        if isinstance(fact, AnswerGiven):
            return self._answered(fact)
        if fact.number < self.number:
            return self._changed(is_started=True) if isinstance(fact, TaskStarted) else self
        latest = self if fact.number == self.number else self._changed(number=fact.number, accepted=None, asked=())
        if isinstance(fact, TaskStarted):
            return latest._changed(is_started=True)  # noqa: SLF001 - its own class
        if isinstance(fact, AttemptAccepted):
            return latest._changed(accepted=latest.accepted or fact)  # noqa: SLF001
        return latest._asked(fact)  # noqa: SLF001

    def _asked(self, fact: QuestionAsked) -> "OpenRun":
        is_known = (fact.number, fact.key) in self.answers or fact.name in {each.name for each in self.asked}
        return self if is_known else self._changed(asked=(*self.asked, fact))

    def _answered(self, fact: AnswerGiven) -> "OpenRun":
        place = (fact.number, fact.key)
        if place in self.answers:
            return self
        left = tuple(each for each in self.asked if (each.number, each.key) != place)
        return self._changed(asked=left, answers={**self.answers, place: fact})

    def _changed(self, **fields: object) -> "OpenRun":
        return msgspec.structs.replace(self, **fields)


class OpenRuns:
    """Runs that have not ended. False when there are none.

    Attributes:
        runs: By their ids inside the chain; to be read only. Nearly every chain has none, and looks at this often.
    """

    def __init__(self) -> None:
        self.runs: dict[str, OpenRun] = {}
        self._of_task: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self.runs)

    def snapshot(self) -> "OpenRuns":
        """The same runs: what happens later does not change it."""
        still = OpenRuns()
        still.runs, still._of_task = dict(self.runs), dict(self._of_task)
        return still

    def apply(self, fact: OfRun) -> None:
        """Take in a fact about a run that has not ended."""
        opened = self.runs.get(fact.task)
        if opened is None:
            opened, task = OpenRun(), task_of(fact.task)
            self._of_task[task] = self._of_task.get(task, 0) + 1
        self.runs[fact.task] = opened.with_fact(fact)

    def end(self, run: str) -> None:
        """A run has ended."""
        if self.runs.pop(run, None) is None:
            return
        task = task_of(run)
        self._of_task[task] -= 1
        if not self._of_task[task]:
            del self._of_task[task]

    def has_any_of(self, task: str) -> bool:
        """True when a run of a task is among them."""
        return task in self._of_task

    def started(self) -> list[str]:
        """Those with a send on record that no agent has accepted."""
        return [run for run, opened in self.runs.items() if opened.is_started and opened.accepted is None]

    def accepted(self) -> list[AttemptAccepted]:
        """What agents have accepted."""
        return [opened.accepted for opened in self.runs.values() if opened.accepted is not None]

    def phase_of(self, run: str) -> Phase | None:
        """What a run waits for; None when that is not on record."""
        opened = self.runs.get(run)
        if opened is None:
            return None
        if opened.asked:
            return Phase.INPUT_REQUIRED
        return None if opened.accepted is None else Phase.ACCEPTED
