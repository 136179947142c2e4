"""The story is told from what was recorded: who did what, what failed over, and nothing that did not happen."""

from datetime import UTC, datetime, timedelta
from typing import Any

from aicp import Attempt, Outcome, TaskStatus
from aicp.demo.killing import Killed
from aicp.demo.story import Story, tell_story
from aicp.model.views import ChainView, TaskView, Timings

START = datetime(2026, 1, 1, tzinfo=UTC)
PIDS = {"fetch-1": 11, "label-1": 21, "label-2": 22}


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def attempt(agent_id: str, began_s: float, ended_s: float, outcome: Outcome = Outcome.SUCCESS) -> Attempt:
    reason = "" if outcome is Outcome.SUCCESS else "connection closed before the answer"
    return Attempt(agent_id, 1, outcome, reason, at(began_s), at(ended_s))


def task(name: str, result: Any, *attempts: Attempt) -> TaskView:
    first, last = attempts[0].started_at, attempts[-1].ended_at
    return TaskView(
        task_id=f"chain-7.{name}",
        capability=f"image.{name}",
        status=TaskStatus.COMPLETED,
        result=result,
        error=None,
        agent_id=attempts[-1].agent_id,
        attempts=attempts,
        timings=Timings(running_s=(last - first).total_seconds()),
        ready_at=first,
        started_at=first,
        ended_at=last,
    )


def story(*tasks: TaskView, killed: Killed | None = None) -> Story:
    by_name = {each.task_id.partition(".")[2]: each for each in tasks}
    view = ChainView(
        chain_id="chain-7",
        name="image analysis",
        status=TaskStatus.COMPLETED,
        total_tasks=len(tasks),
        completed_tasks=len(tasks),
        tasks=by_name,
        edges=[],
        error=None,
        started_at=START,
        ended_at=max(each.ended_at or START for each in tasks),
    )
    return tell_story(view, PIDS, killed, startup_s=4.0)


def killed_at(seconds: float) -> Killed:
    return Killed("label", "label-1", 21, at(seconds))


def test_death_at_work_is_told_with_the_rescuer_and_how_soon_it_took_over() -> None:
    lost = attempt("label-1", 1.0, 1.25, Outcome.AGENT_FAULT)
    told = story(task("label", {}, lost, attempt("label-2", 1.258, 2.0)), killed=killed_at(1.22))

    assert told.failover is not None
    assert (told.failover.dead_agent, told.failover.dead_pid) == ("label-1", 21)
    assert (told.failover.rescuing_agent, told.failover.rescuing_pid) == ("label-2", 22)
    assert (told.failover.killed_s, told.failover.took_over_ms) == (1.22, 38.0)
    assert told.failover.noticed_as == "AGENT_FAULT: connection closed before the answer"
    assert told.failover_sentence == (
        "label-1 (pid 21) was killed with SIGKILL while it worked on LABEL; "
        "label-2 (pid 22) took over 38 ms later, and the job succeeded."
    )


def test_kill_that_came_after_the_answer_is_not_sold_as_a_failover() -> None:
    told = story(task("label", {}, attempt("label-1", 1.0, 1.25)), killed=killed_at(1.26))

    assert told.failover is None
    assert told.failover_sentence == (
        "label-1 (pid 21) was killed with SIGKILL, but only after its answer to LABEL: nothing had to fail over."
    )


def test_without_a_kill_nothing_is_said_to_have_failed_over() -> None:
    told = story(task("label", {}, attempt("label-1", 1.0, 1.25)))

    assert told.failover is None
    assert told.failover_sentence == "No agent was killed."


def test_steps_name_who_did_them_and_every_attempt_in_seconds_from_the_submit() -> None:
    lost = attempt("label-1", 1.0, 1.25, Outcome.AGENT_FAULT)
    (step,) = story(task("label", {}, lost, attempt("label-2", 1.5, 2.0))).steps

    assert (step.step, step.capability, step.agent_id, step.pid, step.time_s) == (
        "label",
        "image.label",
        "label-2",
        22,
        1.0,
    )
    assert [(each.agent_id, each.pid, each.began_s, each.ended_s) for each in step.attempts] == [
        ("label-1", 21, 1.0, 1.25),
        ("label-2", 22, 1.5, 2.0),
    ]


def test_time_of_steps_one_after_the_other_is_told_beside_wall_time() -> None:
    told = story(
        task("fetch", {}, attempt("fetch-1", 0.0, 1.0)),
        task("label", {}, attempt("label-1", 1.0, 3.0)),
        task("extract", {}, attempt("extract-1", 1.0, 2.5)),
    )

    assert (told.timings.wall_s, told.timings.sequential_s, told.timings.startup_s) == (3.0, 4.5, 4.0)


def test_findings_are_counted_in_words() -> None:
    original = {"format": "PNG", "width": 640, "height": 480, "size_bytes": 2048}
    results = {
        "fetch": {"image": {}, "original": original},
        "label": {"faces": [{}], "regions": []},
        "extract": {"lines": [{}, {}]},
        "analyze": {"colors": [{}]},
        "combine": {"report": {}, "annotated_png_base64": ""},
    }
    told = story(*(task(name, result, attempt("fetch-1", 0.0, 1.0)) for name, result in results.items()))

    assert [step.found for step in told.steps] == [
        "PNG, 640 x 480, 2 KiB",
        "1 face, no regions",
        "2 lines of text",
        "1 colour",
        "report, annotated picture",
    ]
