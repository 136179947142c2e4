"""Keeps pages in browsers from an agent that asks nobody for a token.

Such an agent listens on loopback alone, where no other machine reaches it; but a browser on this machine does, for
whatever page it shows. A page of elsewhere says so in `Origin`; one whose own name was rebound to 127.0.0.1 is given
away by `Host`. Whoever shows a token is no page.
"""

import re

from aiohttp import web

from aicp.agent.answers import refuse
from aicp.model.endpoint import Endpoint, is_loopback_host

SHOWN_CHARS_MAX = 80
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:@/?#\s]+))(?::[0-9]*)?")


class Strangers:
    """Turns away who calls from a page, or calls the agent by a name that is not its own.

    Args:
        endpoint: The URL under which AICP calls it, if it was told one: its host is a name of the agent as well.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._host = "" if endpoint is None else Endpoint.parse(endpoint).host

    def refuse(self, request: web.BaseRequest) -> web.Response | None:
        """Why a request is not answered; None when it is.

        403, not 421: to AICP it then says that this is not the agent that was registered, and no task is to blame.
        """
        if "Origin" in request.headers:
            told = "pages in browsers may not call this agent: send no Origin header, or give the agent a token"
            return refuse(403, "origin_refused", told)
        for named in request.headers.getall("Host", ()):
            if not self._is_ours(named):
                return refuse(403, "host_refused", _not_ours(named))
        return None

    def _is_ours(self, named: str) -> bool:
        found = _HOST.fullmatch(named)
        host = (found[1] or found[2]).lower() if found is not None else ""
        return bool(host) and (host == self._host or is_loopback_host(host))


def _not_ours(named: str) -> str:
    return (
        f"the Host header '{named[:SHOWN_CHARS_MAX]}' does not name this agent: call it at a loopback address, "
        "start it with --endpoint and the URL it is called at, or give it a token"
    )
