"""Schemas in the shapes that tool servers, schema libraries and OpenAPI generators write: an agent may declare them."""

from typing import Any

import pytest

from aicp import InvalidAgent, Node
from aicp.model.agent import AgentProfile, Capability
from aicp.registry.schemas import Schemas
from tests.unit.flow_kit import virtual

JSON_SCHEMA_7 = "http://json-schema.org/draft-07/schema#"
JSON_SCHEMA_2020 = "https://json-schema.org/draft/2020-12/schema"
OPENAPI = "https://spec.openapis.org/oas/3.1/dialect/base"
EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
UUID = (
    r"^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}|"
    r"00000000-0000-0000-0000-000000000000)$"
)
DURATION = r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$"
DATE_TIME = (
    r"^(?:(?:\d\d[2468][048]|\d\d[13579][26]|\d\d0[48]|[02468][048]00|[13579][26]00)-02-29|\d{4}-"
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|(?:02)-"
    r"(?:0[1-9]|1\d|2[0-8])))T(?:(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?:Z))$"
)
IPV6 = r"^(([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}|([0-9a-fA-F]{1,4}:){1,7}:|::([fF]{4}(:0{1,4})?:)?[0-9.]+)$"
EMOJI = r"^(\p{Extended_Pictographic}|\p{Emoji_Component})+$"


def tool(required: list[str], /, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def text(**more: Any) -> dict[str, Any]:
    return {"type": "string", **more}


REPOSITORY = {"owner": text(description="Repository owner"), "repo": text(description="Repository name")}

TOOLS: dict[str, tuple[Any, Any]] = {
    # As a code host's tool server writes them.
    "issue_read": (tool(["owner", "repo", "number"], **REPOSITORY, number={"type": "number"}), {"number": 1}),
    "issue_list": (
        tool(
            ["owner", "repo"],
            **REPOSITORY,
            state=text(enum=["OPEN", "CLOSED"]),
            labels={"type": "array", "items": text()},
            since=text(description="ISO 8601 timestamp"),
            perPage={"type": "number", "minimum": 1, "maximum": 100},
        ),
        {"state": "open"},
    ),
    "file_push": (
        tool(
            ["owner", "repo", "files"],
            **REPOSITORY,
            files={
                "type": "array",
                "items": {"additionalProperties": False, **tool(["path"], path=text(), content=text())},
            },
        ),
        {"files": [{}]},
    ),
    "review_write": (
        tool(["event"], event=text(enum=["APPROVE", "REQUEST_CHANGES"]), line={"type": ["integer", "null"]}),
        {},
    ),
    "search": (
        tool(["q"], q=text(minLength=1), sort=text(enum=["stars", "forks"]), page={"type": "number"}),
        {"q": ""},
    ),
    # As a file system's, a browser's and a database's tool server write them.
    "file_read": ({"$schema": JSON_SCHEMA_7, **tool(["path"], path=text(), head={"type": "number"})}, {"head": "x"}),
    "file_edit": (
        {
            "$schema": JSON_SCHEMA_7,
            **tool(
                ["edits"],
                edits={"type": "array", "items": tool(["oldText"], oldText=text(description="Must match exactly"))},
                dryRun={"type": "boolean", "default": False},
            ),
        },
        {"edits": [{"newText": "a"}]},
    ),
    "browser_open": (
        tool(["url"], url=text(format="uri"), timeout={"type": "integer", "exclusiveMinimum": 0}),
        {"timeout": 0},
    ),
    "browser_click": (tool(["ref"], ref=text(pattern="^e[0-9]+$"), button=text(enum=["left", "right"])), {"ref": "x"}),
    "sql_query": (tool(["sql"], sql=text(minLength=1, maxLength=100_000), params={"type": "array"}), {"sql": ""}),
    "no_arguments": ({"type": "object", "properties": {}}, []),
    "empty": ({}, None),
    "anything": (True, None),
    # As zod 4 writes them.
    "zod_email": (
        {"$schema": JSON_SCHEMA_2020, **tool(["to"], to=text(format="email", pattern=EMAIL))},
        {"to": "a..b@c.de"},
    ),
    "zod_uuid": (tool(["id"], id=text(format="uuid", pattern=UUID)), {"id": "1234"}),
    "zod_duration": (tool(["every"], every=text(format="duration", pattern=DURATION)), {"every": "P"}),
    "zod_datetime": (tool(["at"], at=text(format="date-time", pattern=DATE_TIME)), {"at": "2026-02-29T00:00:00Z"}),
    "zod_ipv6": (tool(["ip"], ip=text(format="ipv6", pattern=IPV6)), {"ip": "nowhere"}),
    "zod_emoji": (tool(["mark"], mark=text(pattern=EMOJI)), {"mark": 1}),
    "zod_tuple": ({"type": "array", "prefixItems": [text(), {"type": "number"}], "items": False}, ["a", 1, 2]),
    "zod_record": ({"type": "object", "propertyNames": text(), "additionalProperties": {"type": "number"}}, {"a": "b"}),
    "zod_union": (
        {
            "oneOf": [
                tool(["kind"], kind={"const": "a"}),
                tool(["kind", "n"], kind={"const": "b"}, n={"type": "number"}),
            ]
        },
        {"kind": "b"},
    ),
    "zod_recursive": (
        {"$ref": "#/$defs/__schema0", "$defs": {"__schema0": tool([], child={"$ref": "#/$defs/__schema0"})}},
        {"child": 1},
    ),
    # As pydantic writes them.
    "pydantic_optional": (
        tool([], limit={"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}),
        {"limit": "x"},
    ),
    "pydantic_models": (
        {"$defs": {"Point": tool(["x"], x={"type": "number"})}, **tool(["at"], at={"$ref": "#/$defs/Point"})},
        {"at": {}},
    ),
    "pydantic_union": (
        {
            "$defs": {"Cat": tool(["kind"], kind={"const": "cat"}), "Dog": tool(["kind"], kind={"const": "dog"})},
            "discriminator": {"mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}, "propertyName": "kind"},
            "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        },
        {"kind": "cow"},
    ),
    "pydantic_decimal": (
        tool(["price"], price={"anyOf": [{"type": "number"}, text(pattern=r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$")]}),
        {"price": "."},
    ),
    # As OpenAPI 3.1 documents have them.
    "openapi_dialect": ({"$schema": OPENAPI, **tool(["name"], name=text(example="rex"), xml={"type": "object"})}, {}),
    "openapi_own_id": (
        {
            "$id": "https://pets.example/schemas/pet",
            "$ref": "https://pets.example/schemas/pet#/$defs/Pet",
            "$defs": {"Pet": tool(["name"], name=text())},
        },
        {},
    ),
    "openapi_all_of": (
        {"allOf": [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}]},
        {"a": 1},
    ),
}


def test_there_are_thirty_of_them() -> None:
    assert len(TOOLS) >= 30


@virtual
async def test_one_agent_declares_all_of_them_for_params_and_results() -> None:
    capabilities = tuple(Capability(f"tools.{name}", "1.0", schema, schema) for name, (schema, _) in TOOLS.items())
    async with Node() as node:
        node.ains.put(AgentProfile("tools-1", capabilities))
        assert len(node.scheduler.keys_of("tools-1")) == len(TOOLS)


@pytest.mark.parametrize("name", [name for name, (_, bad) in TOOLS.items() if bad is not None])
@virtual
async def test_each_refuses_what_does_not_fit(name: str) -> None:
    schema, bad = TOOLS[name]
    schemas = Schemas()
    assert schemas.misfit(schema, bad)
    assert schemas.compile(schema).left_out == ()


@virtual
async def test_a_server_of_a_thousand_tools_is_one_agent() -> None:
    capabilities = tuple(Capability(f"tools.t{number}", "1.0", TOOLS["issue_list"][0]) for number in range(1_000))
    async with Node() as node:
        node.ains.put(AgentProfile("tools-1", capabilities))
        with pytest.raises(InvalidAgent, match="must be 1 to 1000, not 1001"):
            node.ains.put(AgentProfile("tools-2", (*capabilities, Capability("one.more"))))


@virtual
async def test_the_schemas_of_an_agent_have_four_mib_together() -> None:
    large = [{"description": f"{number:07}{'x' * 262_000}"} for number in range(17)]
    async with Node() as node:
        node.ains.put(
            AgentProfile("a", tuple(Capability(f"c.n{n}", "1.0", schema) for n, schema in enumerate(large[:15])))
        )
        with pytest.raises(InvalidAgent, match="at most 4194304 are allowed"):
            node.ains.put(
                AgentProfile("b", tuple(Capability(f"c.n{n}", "1.0", schema) for n, schema in enumerate(large)))
            )
