"""The agent as its author writes it: what it can do, and `serve`."""

import math
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from aicp.agent.handler import Offer, make_offer
from aicp.agent.offering import Offering
from aicp.agent.options import DRAIN_S, AgentOptions
from aicp.agent.process import serve_until_stopped
from aicp.agent.served import ServedAgent
from aicp.errors import InvalidAgent
from aicp.model.agent import (
    AGENT_ID_PATTERN,
    ATTEMPT_TIMEOUT_S_MAX,
    CAPABILITIES_MAX,
    CAPABILITY_CHARS_MAX,
    CAPABILITY_PATTERN,
    LABEL_CHARS_MAX,
    LABELS_MAX,
    SCHEMA_BYTES_MAX,
    SLOTS_MAX,
    Capability,
    Schema,
)

_VERSION = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}")

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Agent:
    """Something with capabilities that AICP sends tasks to.

        agent = Agent("eyes-1", max_concurrent_tasks=4)

        @agent.capability("image.label")
        async def label(params: dict) -> dict:
            return {"faces": []}

    Args:
        agent_id: Unique among agents; `[A-Za-z0-9][A-Za-z0-9._-]*`, at most 128 characters.
        max_concurrent_tasks: Its slots, 1 to 10,000; a call that finds none is refused at once with an estimate.
        name: What people call it.
        labels: Key-value pairs that tasks may ask for; at most 64.

    Raises:
        InvalidAgent: One of these cannot be used.
    """

    def __init__(
        self, agent_id: str, *, max_concurrent_tasks: int = 1, name: str = "", labels: dict[str, str] | None = None
    ) -> None:
        if not AGENT_ID_PATTERN.fullmatch(agent_id):
            raise InvalidAgent(
                f"'{agent_id[:128]}' must start with a letter or digit, then up to 127 of A-Z a-z 0-9 . _ -"
            )
        if not 1 <= max_concurrent_tasks <= SLOTS_MAX:
            raise InvalidAgent(f"max_concurrent_tasks must be 1 to {SLOTS_MAX}, not {max_concurrent_tasks}")
        self.agent_id = agent_id
        self.max_concurrent_tasks = max_concurrent_tasks
        self.name = name
        self.labels = _checked_labels(labels or {})
        self._offers: dict[str, Offer] = {}

    def capability(
        self,
        name: str,
        *,
        version: str = "1.0",
        input_schema: Schema | None = None,
        output_schema: Schema | None = None,
        timeout_s: float | None = None,
    ) -> Callable[[Handler], Handler]:
        """Declare the function below as a capability; the function itself stays what it was.

        The handler takes `(params)` or `(params, context)`, context being a `Context`, and returns JSON (msgspec's
        sense of it: dataclasses and Structs too). A coroutine function runs on the loop and is cancelled when nobody
        waits any more; a plain function runs in a thread of its own. It raises `TaskFailed` to say no; anything else
        it raises is answered 500, a fault of the agent.

        Args:
            name: Dotted, `image.label`; at most 128 characters.
            version: `major.minor`; tasks ask for a major, `1` when they name none.
            input_schema: JSON Schema of the params, at most 256 KiB; AICP checks it before it sends anything.
            output_schema: JSON Schema of the result.
            timeout_s: How long one execution may take, seconds, up to a day; None for the caller's deadline alone.

        Raises:
            InvalidAgent: The declaration cannot be used, or name and major are taken.
        """
        if not isinstance(name, str):
            raise InvalidAgent("@agent.capability needs the capability's name: write @agent.capability('image.label')")
        declared = _checked(Capability(name, version, input_schema, output_schema, timeout_s))

        def declare(function: Handler) -> Handler:
            offer = make_offer(declared, function)
            if offer.ref in self._offers:
                raise InvalidAgent(f"'{offer.ref}' is declared twice")
            if len(self._offers) >= CAPABILITIES_MAX:
                raise InvalidAgent(f"an agent has at most {CAPABILITIES_MAX} capabilities")
            self._offers[offer.ref] = offer
            return function

        return declare

    def offering(self) -> Offering:
        """What is declared so far, as it is served.

        Raises:
            InvalidAgent: Nothing is.
        """
        if not self._offers:
            raise InvalidAgent(f"'{self.agent_id}' has no capability: declare one with @agent.capability(...)")
        return Offering(self.agent_id, dict(self._offers), self.max_concurrent_tasks, self.name, dict(self.labels))

    async def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        register: str | None = None,
        api_key: str | None = None,
        token: str | None = None,
        endpoint: str | None = None,
        drain_s: float = DRAIN_S,
        until_stdin_closes: bool = False,
    ) -> None:
        """Serve until SIGTERM or SIGINT, then drain; the arguments are those of `AgentOptions`.

        Raises:
            InvalidAgent: The agent has no capability.
            SettingsError: The arguments cannot be used, or the address cannot be bound.
        """
        options = AgentOptions(
            host=host,
            port=port,
            register=register,
            api_key=api_key,
            token=token,
            endpoint=endpoint,
            drain_s=drain_s,
            until_stdin_closes=until_stdin_closes,
        )
        await serve_until_stopped(self.offering(), options, lambda _: None)

    @asynccontextmanager
    async def serving(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        register: str | None = None,
        api_key: str | None = None,
        token: str | None = None,
        endpoint: str | None = None,
        drain_s: float = DRAIN_S,
    ) -> AsyncIterator[ServedAgent]:
        """Serve inside the block, then drain (close at once when the block fails); listens to no signal.

        Arguments and errors are those of `serve`.
        """
        options = AgentOptions(
            host=host, port=port, register=register, api_key=api_key, token=token, endpoint=endpoint, drain_s=drain_s
        )
        served = ServedAgent(self.offering(), options)
        await served.start()
        try:
            yield served
            await served.drain()
        finally:
            await served.close()


def _checked(capability: Capability) -> Capability:
    name, timeout_s = capability.name, capability.timeout_s
    if len(name) > CAPABILITY_CHARS_MAX or not CAPABILITY_PATTERN.fullmatch(name):
        raise InvalidAgent(f"capability '{name[:CAPABILITY_CHARS_MAX]}' must be a dotted name like image.label")
    if not _VERSION.fullmatch(capability.version):
        raise InvalidAgent(f"the version of '{name}' must be major.minor like 1.0, not '{capability.version}'")
    if timeout_s is not None and not (math.isfinite(timeout_s) and 0 < timeout_s <= ATTEMPT_TIMEOUT_S_MAX):
        raise InvalidAgent(f"timeout_s of '{name}' must be more than 0 and at most {ATTEMPT_TIMEOUT_S_MAX:.0f} seconds")
    for schema in (capability.input_schema, capability.output_schema):
        _check_schema(name, schema)
    return capability


def _check_schema(name: str, schema: Schema | None) -> None:
    try:
        size = len(msgspec.json.encode(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidAgent(f"a schema of '{name}' is no JSON: {error}") from error
    if size > SCHEMA_BYTES_MAX:
        raise InvalidAgent(f"a schema of '{name}' has {size} bytes; at most {SCHEMA_BYTES_MAX} fit")


def _checked_labels(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > LABELS_MAX:
        raise InvalidAgent(f"an agent has at most {LABELS_MAX} labels, not {len(labels)}")
    for key, value in labels.items():
        if not key or len(key) > LABEL_CHARS_MAX or len(value) > LABEL_CHARS_MAX:
            raise InvalidAgent(f"label '{key[:40]}' and its value must have at most {LABEL_CHARS_MAX} characters")
    return dict(labels)
