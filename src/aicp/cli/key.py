"""`aicp key …`."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from aicp.cli.completion import capabilities, key_ids, scopes
from aicp.cli.connection import ask
from aicp.cli.exits import say
from aicp.cli.output import Format, Output, Sheet, facts, write
from aicp.model.access import GRANTABLE, ApiKey, AuditRecord, KeyLimits, KeyMade, KeyRequest

AUDIT_PAGE_MAX = 1_000
AUDIT_SHOWN = 50
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhd]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}

app = typer.Typer(help="Keys that open the API of a server, and who changed what with them.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    scope: Annotated[
        list[str],
        typer.Option(help=f"What it may do, once for each of {', '.join(GRANTABLE)}.", autocompletion=scopes),
    ],
    tenant: Annotated[
        str | None, typer.Option(help="Whose objects it sees and makes; * for every tenant's.", show_default="default")
    ] = None,
    expires_in: Annotated[str | None, typer.Option(help="How long it is good, such as 90d, 12h, 30m or 60s.")] = None,
    capability: Annotated[
        list[str] | None,
        typer.Option(
            help="What it may submit tasks and register agents for, once for each; any if left out.",
            autocompletion=capabilities,
        ),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests at once.")] = None,
    queue: Annotated[int | None, typer.Option(help="Tasks accepted and unfinished.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a key and show its secret, which is never shown again."""
    request = KeyRequest(
        name, tuple(scope), tenant, None if expires_in is None else _seconds(expires_in),
        tuple(capability) if capability else None, KeyLimits(rate, concurrency, queue),
    )  # fmt: skip
    made: KeyMade = ask(lambda client: client.create_key(request))
    write(made, output, facts(secret=made.secret, **_facts(made.key)))
    say("Keep the secret now: it is never shown again. Whoever has it sets AICP_API_KEY to it.")


@app.command("list")
def list_keys(output: Output = Format.TABLE) -> None:
    """Show every key, oldest first; those that ended stay for 30 days."""
    keys: list[ApiKey] = ask(lambda client: client.list_keys())
    rows = [tuple(_facts(key).values()) for key in keys]
    write(keys, output, Sheet(("key", "kind", "name", "tenant", "scopes", "capabilities", "limits", *_TIMES), rows))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Which, as `aicp key list` shows it.", autocompletion=key_ids)],
    output: Output = Format.TABLE,
) -> None:
    """Have a key open nothing any more."""
    key: ApiKey = ask(lambda client: client.revoke_key(key_id))
    write(key, output, facts(**_facts(key)))


@app.command()
def audit(
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many, the newest.")] = AUDIT_SHOWN,
    output: Output = Format.TABLE,
) -> None:
    """Show who changed what, newest first."""

    async def collect(client: Any) -> tuple[list[AuditRecord], str | None]:
        found: list[AuditRecord] = []
        cursor: str | None = None
        while True:
            page = await client.list_audit(limit=min(limit - len(found), AUDIT_PAGE_MAX), cursor=cursor)
            found += page.records
            cursor = page.next_cursor
            if cursor is None or len(found) >= limit:
                return found, cursor

    records, cursor = ask(collect)
    write(records, output, Sheet(("at", "key", "tenant", "action", "object", "status", "times"), _rows(records)))
    if cursor is not None:
        say(f"There are more records; --limit shows more than {limit}.")


_TIMES = ("created", "expires", "revoked")


def _facts(key: ApiKey) -> dict[str, Any]:
    limits = key.limits
    named = {"rate": limits.rate_per_s, "concurrency": limits.concurrency, "queue": limits.queue}
    return {
        "key": key.key_id,
        "kind": key.kind if key.parent is None else f"{key.kind} of {key.parent}",
        "name": key.name,
        "tenant": key.tenant,
        "scopes": ", ".join(key.scopes),
        "capabilities": "any" if key.capabilities is None else ", ".join(key.capabilities),
        "limits": ", ".join(f"{name} {value:g}" for name, value in named.items() if value is not None),
        "created": key.created_at,
        "expires": key.expires_at,
        "revoked": key.revoked_at,
    }


def _rows(records: Sequence[AuditRecord]) -> list[tuple[Any, ...]]:
    return [
        (each.at, each.key_id, each.tenant, each.action, each.object_id, each.status, each.count) for each in records
    ]


def _seconds(span: str) -> float:
    found = _SPAN.fullmatch(span)
    if found is None:
        raise typer.BadParameter(f"'{span[:40]}' is no time: say 90d, 12h, 30m or 60s", param_hint="--expires-in")
    return float(found[1]) * _UNIT_S[found[2]]
