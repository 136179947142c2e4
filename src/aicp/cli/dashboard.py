"""`aicp dashboard`."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from aicp.cli.connection import ask
from aicp.cli.exits import say
from aicp.cli.output import Format, Output, Sheet, write, write_plain
from aicp.model.access import dashboard_link
from aicp.model.endpoint import leads_to_loopback


class DashboardLink(msgspec.Struct, frozen=True):
    """What opens the dashboard.

    Attributes:
        url: Its address, with a code that is good once.
        expires_at: UTC; until when. None for an address without a code, where the page asks for a key.
    """

    url: str
    expires_at: datetime | None


def dashboard(
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the link and open nothing.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Open the server's dashboard in your browser, or print the link to it where there is none.

    The link signs in once, within 60 seconds, with the rights of your key, and carries no key. As JSON it is printed
    and not opened. A server that is reached by http from another machine gets a link that asks for a key.
    """
    link: DashboardLink = ask(_link)
    if output is not Format.TABLE:
        write(link, output, Sheet((), ()))
    elif no_open or not _opened(link):
        write_plain(f"{link.url}\n")


async def _link(client: Any) -> DashboardLink:
    if not (client.url.startswith("https:") or leads_to_loopback(client.url)):
        await client.info()
        return DashboardLink(dashboard_link(client.url), None)
    made = await client.create_session_code()
    return DashboardLink(dashboard_link(client.url, made.code), made.expires_at)


def _opened(link: DashboardLink) -> bool:
    from aicp.cli.browsing import open_in_browser

    is_open = open_in_browser(link.url)
    if is_open:
        say(f"The dashboard opens in your browser: {link.url.partition('#')[0]}")
    return is_open
