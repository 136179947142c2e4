"""`aicp task …`."""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from aicp.cli.completion import capabilities, task_ids
from aicp.cli.connection import ask
from aicp.cli.exits import OK, WORK_FAILED
from aicp.cli.lists import LIMIT, Limit, Status, show_tasks
from aicp.cli.output import Format, Output, Sheet, facts, seconds, tell_warning, write
from aicp.errors import Fault, InvalidTask, SettingsError
from aicp.model.task import Phase, Priority, Task, TaskStatus
from aicp.model.views import Candidate, Choice, LinePlace

app = typer.Typer(help="Tasks on their own.", no_args_is_help=True)

TaskId = Annotated[str, typer.Argument(help="The id that `aicp task run` told.", autocompletion=task_ids)]


@app.command()
def run(
    capability: Annotated[
        str, typer.Argument(help="What is wanted: name, or name@major.", autocompletion=capabilities)
    ],
    params: Annotated[
        str | None, typer.Argument(metavar="[PARAMS]", help="JSON object for the agent, or @FILE with one; else {}.")
    ] = None,
    params_option: Annotated[
        str | None, typer.Option("--params", metavar="PARAMS", help="The same, as an option.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end and show the result.")] = False,
    priority: Annotated[Priority, typer.Option(help="Place in line.")] = Priority.NORMAL,
    timeout_s: Annotated[float | None, typer.Option("--timeout-s", help="Longest single attempt, seconds.")] = None,
    deadline_s: Annotated[
        float | None, typer.Option("--deadline-s", help="Seconds until it must have ended, all attempts included.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Submit a task to the server. If it will probably outlast its deadline, a warning on stderr says so."""
    task = Task(
        capability, _params(params, params_option), priority=priority, timeout_s=timeout_s, deadline_s=deadline_s
    )
    accepted = ask(lambda client: client.accept_task(task))
    warned = tell_warning(accepted)
    if wait:
        _show_end(accepted.task_id, output)
    write({"task_id": accepted.task_id, **warned}, output, facts(task=accepted.task_id))


@app.command()
def show(
    task_id: TaskId,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end, and say by the exit code how that was.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show where a task stands, and its result."""
    if wait:
        _show_end(task_id, output)
    _write_view(ask(lambda client: client.get_task(task_id)), output)


@app.command("list")
def list_tasks(
    status: Status = None,
    phase: Annotated[
        Phase | None, typer.Option(case_sensitive=False, help="Only those that wait for this, or are at an agent.")
    ] = None,
    capability: Annotated[
        str | None,
        typer.Option(help="Only those that ask for it: name, or name@major.", autocompletion=capabilities),
    ] = None,
    limit: Limit = LIMIT,
    output: Output = Format.TABLE,
) -> None:
    """Show the newest tasks, those of chains too."""
    show_tasks(status, phase, capability, limit, output)


@app.command()
def explain(task_id: TaskId, output: Output = Format.TABLE) -> None:
    """Show why a task went where it went, what it waits for, and who could do it now."""
    found = ask(lambda client: client.explain_task(task_id))
    chosen = [(f"attempt {choice.attempt}", choice.agent_id, "chosen", _why_chosen(choice)) for choice in found.choices]
    now = [("now", each.agent_id, each.standing, _terms_of(each)) for each in found.outlook.candidates]
    place = found.outlook.place
    line = [("now", None, "in line", _told_place(place))] if place is not None else []
    write(found, output, Sheet(("when", "agent", "standing", "why"), [*chosen, *line, *now]))


@app.command()
def cancel(task_id: TaskId, output: Output = Format.TABLE) -> None:
    """Cancel a task; one that has ended stays as it is."""
    standing = ask(lambda client: client.cancel_task(task_id))
    write(standing, output, facts(task=standing.task_id, status=standing.status))


def _show_end(task_id: str, output: Format) -> None:
    from aicp.cli.progress import waiting
    from aicp.cli.waits import waiting_for

    with waiting_for("task", task_id), waiting(f"task {task_id}"):
        view = ask(lambda client: client.wait_task(task_id))
    _write_view(view, output)
    raise typer.Exit(OK if view.status is TaskStatus.COMPLETED else WORK_FAILED)


def _why_chosen(choice: Choice) -> str:
    waited = f"waited {seconds(choice.waited_s)}"
    expected = f"{seconds(choice.estimate_s)} expected" if choice.estimate_s is not None else "speed unknown"
    return f"{waited}; {expected}; of {choice.agents} agents {choice.usable} usable, {choice.free} still free"


def _terms_of(candidate: Candidate) -> str:
    terms = [candidate.reason] if candidate.reason else []
    if candidate.retry_after_s is not None:
        terms.append(f"again in {seconds(candidate.retry_after_s)}")
    if candidate.estimate_s is not None:
        terms.append(f"{seconds(candidate.estimate_s)} expected" + ("" if candidate.measured else ", as of others"))
    terms.append(f"{candidate.taken} of {candidate.slots} slots taken")
    return "; ".join([*terms, *(["serves every tenant"] if candidate.shared else [])])


def _told_place(place: LinePlace) -> str:
    told = [f"{place.ahead} ahead", f"waited {seconds(place.waited_s)}"]
    if place.expected_wait_s:
        told.append(f"about {seconds(place.expected_wait_s)} to go")
    if place.patient_for_s:
        told.append(f"a faster agent is expected within {seconds(place.patient_for_s)}")
    return "; ".join(told)


def _write_view(view: Any, output: Format) -> None:
    sheet = facts(
        task=view.task_id,
        capability=view.capability,
        status=view.status,
        phase=view.phase,
        result=view.result,
        error=view.error and f"{view.error.code}: {view.error.message}",
        agent=view.agent_id,
        attempts=len(view.attempts),
        waited=seconds(view.timings.queued_s),
        ran=seconds(view.timings.running_s),
    )
    write(view, output, sheet)


def _params(alone: str | None, option: str | None) -> dict[str, Any]:
    if alone is not None and option is not None:
        raise SettingsError("The params are said twice, alone and by --params; keep one.")
    said, place = (option, "--params") if alone is None else (alone, "PARAMS")
    if said is None:
        return {}
    from aicp.runtime.documents import read_document

    value = read_document(Path(said[1:])).value if said.startswith("@") else _json(said, place)
    if not isinstance(value, dict):
        raise InvalidTask([Fault(place, f"must be a JSON object, not {json.dumps(value)[:80]}")])
    return value


def _json(said: str, place: str) -> Any:
    try:
        return msgspec.json.decode(said.encode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise InvalidTask([Fault(place, f"is not JSON: {error}")]) from None
