"""What Schemathesis is told of this server: what it shall not wait for, and what no schema can say.

Given as SCHEMATHESIS_HOOKS to its command line by `test_server_keeps_to_its_own_document`.
"""

from typing import Any

import schemathesis

from aicp.model.validation import is_capability_ref

OFFERED = "text.echo"
NOBODY = "http://127.0.0.1:9"
SHORT_WAIT_S = 0.01

# Refusals of requests that fit their schema, since of what they name there is none.
UNKNOWN_CODES = {"no_capable_agent"}
UNKNOWN_PLACES = {"?cursor"}
UNKNOWN_MESSAGES = (
    "there is no task",  # named in depends_on
    "gave no description",  # nobody lives at the endpoint
    "the id of an earlier task",
    "wait for one another in a circle",
    "waits for itself",
    "must be a dotted name",  # a search for nothing at all
    "each key once",  # labels that differ, of one key
    "expected `int",  # 4.0 is an integer to a schema, and none to us
    "must be the id of a task",  # a reference in params
    "tells of every tenant",  # a scope that needs another tenant
    "printable characters",  # as Unicode has it, which no pattern says
)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """No agent outside is asked who it is, nobody is waited for, and what is asked for somebody offers."""
    if isinstance(case.body, dict):
        case.body = sendable(case.body)
    if isinstance(case.query, dict) and is_a_wait(case.query.get("wait_s")):
        case.query = {**case.query, "wait_s": SHORT_WAIT_S}


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether it is one: a request may fit its schema, and yet name what is not there."""
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    problem = response.json()
    faults = problem.get("faults", [])
    is_known = all(fault["place"] in UNKNOWN_PLACES or is_about_the_unknown(fault["message"]) for fault in faults)
    return problem["code"] not in UNKNOWN_CODES and not (faults and is_known)


def sendable(body: dict[str, Any]) -> Any:
    if str(body.get("endpoint")).startswith("http"):
        return {**body, "endpoint": NOBODY}
    if isinstance(body.get("tasks"), list):
        return {**body, "tasks": [offered(task) for task in body["tasks"]]}
    return offered(body)


def offered(task: Any) -> Any:
    if isinstance(task, dict) and is_capability_ref(str(task.get("capability", ""))):
        return {**task, "capability": OFFERED}
    return task


def is_a_wait(told: Any) -> bool:
    try:
        return 0 < float(told) <= 60
    except (TypeError, ValueError):
        return False


def is_about_the_unknown(message: str) -> bool:
    return any(known in message for known in UNKNOWN_MESSAGES)
