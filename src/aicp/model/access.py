"""Who may do what: scopes, API keys and their limits, and what is remembered of what was done."""

import re
from datetime import datetime
from enum import StrEnum

import msgspec

from aicp.model.agent import DEFAULT_TENANT

EVERY_TENANT = "*"
"""The tenant of a key that sees and touches the objects of every tenant; what it makes belongs to `default`."""
OPERATOR_ID = "admin"
"""The id under which the admin key of a data directory stands in lists and in the audit log."""
TENANT_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEY_NAME_CHARS_MAX = 64
RATE_MAX = 1_000_000.0
CONCURRENCY_MAX = 100_000
QUEUE_MAX = 10_000_000
ALLOWED_CAPABILITIES_MAX = 256
LIFE_S_MAX = 10 * 366 * 86_400.0


def reserved_tenant(tenant: str, maker: str) -> str:
    """The tenant under which AICP stores the submit keys that it makes itself, for a schedule for one.

    No key of a user has such a tenant: it does not fit `TENANT_PATTERN`.
    """
    return f"{tenant}\x1f{maker}"


class Scope(StrEnum):
    """What a key allows. `OPEN` and `ANY_KEY` are no scopes of keys but what a route asks for: nothing, or any key."""

    OPEN = "open"
    ANY_KEY = "any_key"
    TASKS_SUBMIT = "tasks:submit"
    TASKS_READ = "tasks:read"
    TASKS_CANCEL = "tasks:cancel"
    AGENTS_READ = "agents:read"
    AGENTS_WRITE = "agents:write"
    BREAKERS_WRITE = "breakers:write"
    METRICS_READ = "metrics:read"
    ADMIN = "admin"


GRANTABLE = tuple(scope for scope in Scope if scope not in {Scope.OPEN, Scope.ANY_KEY})
"""The scopes that a key can have."""


class KeyKind(StrEnum):
    """What a key is: one that somebody made, or what a key has made for a page of the dashboard.

    `SESSION` opens what its parent opens, for 12 hours at most; `CODE` opens nothing, and is exchanged for a session.
    """

    KEY = "key"
    SESSION = "session"
    CODE = "code"


class KeyLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much a key may ask for, on each server; None where nothing but the server's own bounds hold.

    Attributes:
        rate_per_s: Requests a second, more than 0; as many may come at once, and at least one.
        concurrency: Requests under way at once, those that wait or read live events included.
        queue: Tasks accepted and unfinished.
    """

    rate_per_s: float | None = None
    concurrency: int | None = None
    queue: int | None = None


NO_LIMITS = KeyLimits()


class ApiKey(msgspec.Struct, frozen=True):
    """A key as it is known after its secret was told once: the secret itself is nowhere.

    Attributes:
        key_id: Short, unique and no secret; stands in lists, in the audit log, and as `owner` of agents.
        name: What people call it.
        tenant: Whose objects it sees and makes; `*` for every tenant's.
        scopes: What it may do.
        created_at: UTC.
        expires_at: UTC; from then on it is refused. None for never.
        capabilities: What it may submit tasks and register agents for, each `name` or `name@major` as tasks name them;
            None for anything.
        limits: How much.
        revoked_at: UTC; None while it is good.
        kind: `session` of a page that somebody has open, `key` of every other one.
        parent: Of a session: the key with whose end it ends, and whose limits it shares.
    """

    key_id: str
    name: str
    tenant: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None = None
    capabilities: tuple[str, ...] | None = None
    limits: KeyLimits = NO_LIMITS
    revoked_at: datetime | None = None
    kind: KeyKind = KeyKind.KEY
    parent: str | None = None

    def is_good(self, now: datetime) -> bool:
        """True while it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What somebody asks for who wants a key.

    Attributes:
        name: What people call it, 1 to 64 characters.
        scopes: What it may do; at least one.
        tenant: Whose objects it sees and makes; `*` for every tenant's, which only a key of every tenant can give.
            None for the tenant of whoever asks, `default` for a key of every tenant.
        expires_in_s: How long it is good, seconds, at most ten years; None for ever.
        capabilities: What it may submit tasks and register agents for; None for anything.
        limits: How much.
    """

    name: str
    scopes: tuple[str, ...]
    tenant: str | None = None
    expires_in_s: float | None = None
    capabilities: tuple[str, ...] | None = None
    limits: KeyLimits = NO_LIMITS


class KeyMade(msgspec.Struct, frozen=True):
    """A new key, told once.

    Attributes:
        key: What is known of it from now on.
        secret: What to show in `Authorization: Bearer …`; it is never told again.
    """

    key: ApiKey
    secret: str

    def __repr__(self) -> str:
        return f"KeyMade(key={self.key!r}, secret='***')"


class CurrentKey(msgspec.Struct, frozen=True):
    """What the key of a request may do, for whoever shows it.

    Attributes:
        key_id: `admin` for that of the data directory.
        tenant: Whose objects it sees and makes; `*` for every tenant's.
        scopes: What it may do.
        expires_at: UTC; None for never.
    """

    key_id: str
    tenant: str
    scopes: tuple[Scope, ...]
    expires_at: datetime | None = None


class SessionCode(msgspec.Struct, frozen=True):
    """What a link to the dashboard carries, told once.

    Attributes:
        code: To be exchanged for a session, once.
        expires_at: UTC; from then on it is refused.
    """

    code: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"SessionCode(code='***', expires_at={self.expires_at!r})"


class SessionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a page says that wants a session.

    Attributes:
        code: As it was told.
    """

    code: str

    def __repr__(self) -> str:
        return "SessionRequest(code='***')"


class SessionMade(msgspec.Struct, frozen=True):
    """A new session, told once.

    Attributes:
        key: What to show in `Authorization: Bearer …`; it is never told again.
        expires_at: UTC; from then on it is refused, or earlier if the key ends that asked for the code.
    """

    key: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"SessionMade(key='***', expires_at={self.expires_at!r})"


class Grant(msgspec.Struct, frozen=True):
    """What a key lets its user submit.

    Attributes:
        key_id: Of the key.
        capabilities: Keys of capabilities, `name@major`, that tasks may ask for; None for any.
        queue: Tasks of this key that may be accepted and unfinished; None for any number.
    """

    key_id: str = ""
    capabilities: frozenset[str] | None = None
    queue: int | None = None


ANYTHING = Grant()
"""For those who need no key: programs that have the node in their own process."""


class AuditRecord(msgspec.Struct, frozen=True):
    """What somebody did, or tried without the right to.

    Attributes:
        at: When, UTC; of what is counted, the first time.
        key_id: Of the key; empty when there was none.
        tenant: Of the key, `*` for one of every tenant; empty when there was none.
        action: The route's name; `lost` for records that did not fit the buffer.
        object_id: What it was done to; empty where that is unknown.
        status: Of the answer.
        count: How often; more than 1 only for refusals and lost records.
        number: Rises with each record; 0 before it is recorded.
    """

    at: datetime
    key_id: str
    tenant: str
    action: str
    object_id: str
    status: int
    count: int = 1
    number: int = 0


class AuditPage(msgspec.Struct, frozen=True):
    """Audit records, newest first, one page.

    Attributes:
        records: Of this page.
        next_cursor: For the page after; None on the last.
    """

    records: list[AuditRecord]
    next_cursor: str | None


class KeyList(msgspec.Struct, frozen=True):
    """Every key that is known, oldest first.

    Attributes:
        keys: Those revoked and expired included, for as long as they are remembered; of sessions, those that are open.
    """

    keys: list[ApiKey]


def dashboard_link(url: str, code: str = "", place: str = "") -> str:
    """What opens the dashboard of a server.

    Args:
        url: Base URL of the server.
        code: Signs in, once; without one the page asks for a key.
        place: Where in it, such as `runs/<chain id>`; with a code only.
    """
    told = f"#code={code}{f'&place={place}' if place else ''}" if code else ""
    return f"{url.rstrip('/')}/dashboard/{told}"


def tenant_of_new(tenant: str) -> str:
    """Whose an object is that a key of this tenant makes."""
    return DEFAULT_TENANT if tenant == EVERY_TENANT else tenant
