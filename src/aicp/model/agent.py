"""Agents and what they can do."""

import re
from enum import StrEnum
from typing import Any

import msgspec

CAPABILITIES_MAX = 1_000
SCHEMA_BYTES_MAX = 256 * 1024
SCHEMAS_BYTES_MAX = 4 * 1024 * 1024
"""Of all schemas of an agent together, as JSON."""
LABELS_MAX = 64
LABEL_CHARS_MAX = 256
NAME_CHARS_MAX = 256
SLOTS_MAX = 10_000
ATTEMPT_TIMEOUT_S_MAX = 86_400.0
CAPABILITY_PATTERN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
BEARER_CHARS_MAX = 4_096
BEARER_PATTERN = re.compile(rf"[!-~]{{1,{BEARER_CHARS_MAX}}}")
AGENT_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
AGENT_ID_TOLD = "1 to 128 of A-Z a-z 0-9 . _ - and begins with a letter or digit"
CAPABILITY_CHARS_MAX = 128
DEFAULT_TENANT = "default"


Schema = dict[str, Any] | bool
"""A JSON Schema: an object, or True for anything and False for nothing."""


class AgentCapability(StrEnum):
    """Well-known capability names; any other dotted name is as valid."""

    IMAGE_PROCESSING = "image_processing"
    NLP = "nlp"
    DATA_ANALYSIS = "data_analysis"
    CODE_EXECUTION = "code_execution"


class Capability(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing an agent can do.

    Attributes:
        name: Dotted name, `image.label`; at most 128 characters.
        version: `major.minor`; tasks ask for a major, `1` when they name none. A major alone, and a third number, are
            taken and mean nothing more.
        input_schema: JSON Schema of the params, None when anything goes.
        output_schema: JSON Schema of the result, None when anything goes.
        timeout_s: How long one attempt may take, seconds; None for the default of 60.
    """

    name: str
    version: str = "1.0"
    input_schema: Schema | None = None
    output_schema: Schema | None = None
    timeout_s: float | None = None


class AgentAuth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What AICP shows to the agent; never printed.

    Attributes:
        bearer: Sent as `Authorization: Bearer …` with every call; 1 to 4,096 printable ASCII characters, no blanks.
    """

    bearer: str

    def __repr__(self) -> str:
        return "AgentAuth(bearer='***')"


class AgentProfile(msgspec.Struct, frozen=True):
    """An agent as the directory knows it.

    Attributes:
        agent_id: Unique among agents; `[A-Za-z0-9][A-Za-z0-9._-]*`, at most 128 characters.
        capabilities: What it can do, 1 to 1,000.
        max_concurrent_tasks: Its slots, 1 to 10,000.
        endpoint: Base URL of an agent in its own process; None for a local callable.
        instance_id: Changes with every start of the agent's process; at most 256 characters.
        name: What people call it, at most 256 characters; empty when it is its id.
        labels: Free key-value pairs that tasks may ask for; at most 64.
        auth: How AICP proves itself to the agent.
        tenant: Whose tasks it serves.
        shared: True when it serves every tenant.
        lease: False when it sends no heartbeats; one in its own process is then asked how it is.
        owner: The id of the API key that registered it, which alone may replace it; empty for one that came without a
            key, from a file or from Python.
        needs: The level of AICP that may use it (see `model/level.py`); one above that of this version is listed only.
    """

    agent_id: str
    capabilities: tuple[Capability, ...]
    max_concurrent_tasks: int = 1
    endpoint: str | None = None
    instance_id: str = ""
    name: str = ""
    labels: dict[str, str] = {}
    auth: AgentAuth | None = None
    tenant: str = DEFAULT_TENANT
    shared: bool = False
    lease: bool = True
    owner: str = ""
    needs: int = 0

    def serves(self, tenant: str | None) -> bool:
        """True when it does tasks of a tenant, which may then see it; for None, of any."""
        return tenant is None or self.shared or self.tenant == tenant


class Registration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What somebody says of an agent when registering it; what is left out comes from the agent's `/describe`.

    Attributes:
        endpoint: Its base URL.
        agent_id: See `AgentProfile`; likewise the others.
        instance_id: Changes with every start of its process.
        name: What people call it.
        auth: How AICP proves itself to the agent.
        capabilities: What it can do.
        max_concurrent_tasks: Its slots.
        labels: Free key-value pairs.
        shared: True when it serves every tenant.
        lease: False when it will not send heartbeats; it is then asked at its `/healthz`.
    """

    endpoint: str
    agent_id: str | None = None
    instance_id: str | None = None
    name: str = ""
    auth: AgentAuth | None = None
    capabilities: tuple[Capability, ...] | None = None
    max_concurrent_tasks: int | None = None
    labels: dict[str, str] = {}
    shared: bool = False
    lease: bool = True
