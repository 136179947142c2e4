"""The HTTP API over a node; `make_app` and everything below import the web framework, so import this when serving."""

from aicp.server.app import make_app
from aicp.server.auth import Keys
from aicp.server.running import RunningServer, running_server, serve_forever

__all__ = ["Keys", "RunningServer", "make_app", "running_server", "serve_forever"]
