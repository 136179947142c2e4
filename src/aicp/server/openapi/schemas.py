"""JSON Schemas of bodies and answers: from the structs, with the meaning of each field and the bounds that it has."""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from inspect import cleandoc
from typing import Any

import msgspec

from aicp.model.access import (
    ALLOWED_CAPABILITIES_MAX,
    CONCURRENCY_MAX,
    GRANTABLE,
    KEY_NAME_CHARS_MAX,
    LIFE_S_MAX,
    QUEUE_MAX,
    RATE_MAX,
    TENANT_PATTERN,
)
from aicp.model.agent import (
    AGENT_ID_PATTERN,
    ATTEMPT_TIMEOUT_S_MAX,
    BEARER_PATTERN,
    CAPABILITIES_MAX,
    CAPABILITY_CHARS_MAX,
    CAPABILITY_PATTERN,
    LABEL_CHARS_MAX,
    LABELS_MAX,
    SLOTS_MAX,
)
from aicp.model.agent import NAME_CHARS_MAX as AGENT_NAME_CHARS_MAX
from aicp.model.chain import FailurePolicy
from aicp.model.history import HistoryMetric
from aicp.model.live import GAP, KIND_PATTERN, KINDS
from aicp.model.outcome import Outcome
from aicp.model.run_id import TASK_ID_PATTERN
from aicp.model.task import DEADLINE_S_MAX, Phase, Priority, TaskKind, TaskStatus
from aicp.model.text import CONTROLS
from aicp.model.validation import LIST_MAX, NAME_CHARS_MAX, TASKS_MAX
from aicp.registry.leases import Liveness
from aicp.registry.naming import VERSION_PATTERN
from aicp.resilience.circuit_breaker import CircuitState

Schema = dict[str, Any]

PREFIX = "#/components/schemas/"
CAPABILITY_REF = {"pattern": f"^{CAPABILITY_PATTERN.pattern}(?:@[0-9]{{1,6}})?$", "maxLength": CAPABILITY_CHARS_MAX}
CHAIN_FIELDS_OF_TASK = ("id", "depends_on", "on_failure")

_ENUMS: tuple[type[StrEnum], ...] = (TaskStatus, TaskKind, Phase, Priority, FailurePolicy, Outcome, HistoryMetric)
_FIELD = re.compile(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)
_JSON_WORDS = {"None": "`null`", "True": "`true`", "False": "`false`"}
_PYTHON_WORD = re.compile(rf"\b(?:{'|'.join(_JSON_WORDS)})\b")
_SPAN = {"exclusiveMinimum": 0, "maximum": DEADLINE_S_MAX}
_CIRCUIT = {"enum": list(CircuitState)}
_PLAIN = {"pattern": f"^[^{CONTROLS}]*$"}
_LABEL = {"maxLength": LABEL_CHARS_MAX, **_PLAIN}
_LABELS = {
    "maxProperties": LABELS_MAX,
    "propertyNames": {"minLength": 1, **_LABEL},
    "additionalProperties": {"type": "string", **_LABEL},
}
_AGENT_ID = {"pattern": f"^{AGENT_ID_PATTERN.pattern}$"}
_AGENTS = {"maxItems": LIST_MAX, "items": {"type": "string", **_AGENT_ID}}
_AGENT_NAME = {"maxLength": AGENT_NAME_CHARS_MAX, **_PLAIN}

# What the server checks by hand, so that it can tell every fault at once, and msgspec therefore does not know.
_BOUNDS: dict[str, dict[str, Schema]] = {
    "Task": {
        "capability": CAPABILITY_REF,
        "id": {"pattern": f"^{TASK_ID_PATTERN.pattern}$"},
        "depends_on": {"items": {"type": "string", "pattern": f"^{TASK_ID_PATTERN.pattern}$"}},
        "timeout_s": _SPAN,
        "deadline_s": _SPAN,
        "labels": _LABELS,
        "agents": _AGENTS,
        "exclude_agents": _AGENTS,
    },
    "ChainSpec": {
        "tasks": {"minItems": 1, "maxItems": TASKS_MAX},
        "name": {"maxLength": NAME_CHARS_MAX, **_PLAIN},
        "deadline_s": _SPAN,
    },
    "Registration": {
        "endpoint": {"format": "uri"},
        "agent_id": _AGENT_ID,
        "instance_id": _AGENT_NAME,
        "name": _AGENT_NAME,
        "capabilities": {"minItems": 1, "maxItems": CAPABILITIES_MAX},
        "max_concurrent_tasks": {"minimum": 1, "maximum": SLOTS_MAX},
        "labels": _LABELS,
    },
    "Heartbeat": {"instance_id": _AGENT_NAME},
    "Drain": {"instance_id": _AGENT_NAME},
    "AgentAuth": {"bearer": {"pattern": f"^{BEARER_PATTERN.pattern}$"}},
    "Capability": {
        "name": {"pattern": f"^{CAPABILITY_PATTERN.pattern}$", "maxLength": CAPABILITY_CHARS_MAX},
        "version": {"pattern": f"^{VERSION_PATTERN.pattern}$"},
        "timeout_s": {"exclusiveMinimum": 0, "maximum": ATTEMPT_TIMEOUT_S_MAX},
    },
    "KeyRequest": {
        "name": {"minLength": 1, "maxLength": KEY_NAME_CHARS_MAX},
        "tenant": {"pattern": rf"^(?:\*|{TENANT_PATTERN.pattern})$"},
        "scopes": {"minItems": 1, "maxItems": len(GRANTABLE), "items": {"type": "string", "enum": list(GRANTABLE)}},
        "expires_in_s": {"exclusiveMinimum": 0, "maximum": LIFE_S_MAX},
        "capabilities": {
            "minItems": 1,
            "maxItems": ALLOWED_CAPABILITIES_MAX,
            "items": {"type": "string", **CAPABILITY_REF},
        },
    },
    "KeyLimits": {
        "rate_per_s": {"exclusiveMinimum": 0, "maximum": RATE_MAX},
        "concurrency": {"minimum": 1, "maximum": CONCURRENCY_MAX},
        "queue": {"minimum": 1, "maximum": QUEUE_MAX},
    },
    "AgentView": {"state": _CIRCUIT, "liveness": {"enum": list(Liveness)}},
    "AgentHealth": {"state": _CIRCUIT, "liveness": {"enum": list(Liveness)}},
    "CapabilityHealth": {"state": _CIRCUIT},
    "AgentState": {"state": _CIRCUIT},
    "Candidate": {"standing": {"enum": ["free", "busy", "silent", "out", "left_out"]}},
    "LiveEvent": {"kind": {"pattern": f"^{KIND_PATTERN.pattern}$", "examples": [*KINDS, GAP]}},
}


def reference_to(name: str) -> Schema:
    """A schema that is the component of this name."""
    return {"$ref": PREFIX + name}


def schemas_of(kinds: Iterable[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """A schema for each type, in their order, and the components that these refer to."""
    outer, components = msgspec.json.schema_components(list(kinds), ref_template=PREFIX + "{name}")
    for name, component in components.items():
        _explain(component)
        _bound(component, _BOUNDS.get(name, {}))
    for enum in _ENUMS:
        if enum.__name__ in components:
            components[enum.__name__].update(type="string", enum=list(enum))
    return list(outer), components


def add_kinds_of_task(components: dict[str, Schema]) -> None:
    """`Task` stands alone; `TaskOfChain` must have an id; `TaskOfParallel` waits for nobody."""
    whole = components["Task"]
    components["TaskOfChain"] = _task(whole, "A task of a chain.", (), ("id", "capability"))
    components["TaskOfParallel"] = _task(whole, "A task beside others; without an id it gets one.", ("depends_on",))
    components["Task"] = _task(whole, "A task on its own.", CHAIN_FIELDS_OF_TASK)
    components["ChainSpec"]["properties"]["tasks"]["items"] = reference_to("TaskOfChain")
    tasks = {**components["ChainSpec"]["properties"]["tasks"], "items": reference_to("TaskOfParallel")}
    components["ParallelTasks"] = {
        "title": "ParallelTasks",
        "description": "Tasks that run side by side, each to its own end.",
        "type": "object",
        "properties": {"tasks": tasks},
        "required": ["tasks"],
        "additionalProperties": False,
    }


def parameter_schema(kind: Any, bounds: Mapping[str, Any]) -> Schema:
    """The schema of a query parameter: never null, since a URL has no word for it."""
    (schema,), components = schemas_of([kind])
    branches = schema.get("anyOf", [schema])
    plain = next(branch for branch in branches if branch.get("type") != "null")
    if "$ref" in plain:
        named = components[plain["$ref"].removeprefix(PREFIX)]
        plain = {key: named[key] for key in ("type", "enum")}
    return {**plain, **bounds}


def not_null(field: Schema) -> Schema:
    """The part of a schema that is about values which are there."""
    return next((branch for branch in field.get("anyOf", ()) if branch.get("type") != "null"), field)


def _task(whole: Schema, told: str, without: tuple[str, ...], required: tuple[str, ...] = ("capability",)) -> Schema:
    properties = {name: schema for name, schema in whole["properties"].items() if name not in without}
    if "id" in required:
        properties["id"] = {key: value for key, value in properties["id"].items() if key != "default"}
    return {**whole, "description": told, "properties": properties, "required": list(required)}


def _explain(component: Schema) -> None:
    """Put each sentence of the docstring's `Attributes` where its field is."""
    # As it is written, or without its indentation: that depends on the version of msgspec.
    told, _, attributes = cleandoc(component.get("description", "")).partition("Attributes:\n")
    component["description"] = " ".join(told.split())
    properties = component.get("properties", {})
    for name, sentence in _FIELD.findall(attributes):
        field = properties.get(name) or properties.get(name.removesuffix("_with"))
        if field is not None:
            field["description"] = _in_words_of_json(" ".join(sentence.split()))
    for name, field in properties.items():
        if name.endswith("_at") or name in {"at", "timestamp"}:
            not_null(field)["format"] = "date-time"


def _in_words_of_json(text: str) -> str:
    return _PYTHON_WORD.sub(lambda found: _JSON_WORDS[found[0]], text)


def _bound(component: Schema, bounds: Mapping[str, Schema]) -> None:
    for name, bound in bounds.items():
        not_null(component["properties"][name]).update(bound)
