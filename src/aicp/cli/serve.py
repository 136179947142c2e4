"""`aicp serve`."""

from pathlib import Path
from typing import Annotated

import typer

from aicp.runtime.settings import DEFAULT_HOST, DEFAULT_PORT, LogFormat, server_settings


def serve(
    host: Annotated[str, typer.Option(help="Address to bind.")] = DEFAULT_HOST,
    port: Annotated[int, typer.Option(help="Port to bind; 0 for any free one.")] = DEFAULT_PORT,
    behind_tls_proxy: Annotated[
        bool, typer.Option("--behind-tls-proxy", help="Only a proxy with TLS reaches this server.")
    ] = False,
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Serve HTTPS with this certificate, PEM. Else AICP_TLS_CERT."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The private key of it, PEM. Else AICP_TLS_KEY.")
    ] = None,
    allow_network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK",
            help="A private network agents may live in, such as 10.0.0.0/8; may be repeated. Else AICP_ALLOW_NETWORKS.",
        ),
    ] = None,
    agents: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A list of agents to keep registered; read again whenever it changes."),
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(help="How to log: text for people, json for machines; else AICP_LOG_FORMAT, else text."),
    ] = None,
) -> None:
    """Run the server until SIGTERM or Ctrl-C.

    What it accepts is kept in the database of AICP_DATABASE_URL, else in aicp.db in the data directory: whatever is
    unfinished when it stops, by a crash or on purpose, goes on when it is started again.
    """
    settings = server_settings(
        host=host, port=port, behind_tls_proxy=behind_tls_proxy, tls_certificate=tls_cert, tls_key=tls_key,
        allow_networks=allow_network or (), agents_file=agents, log_format=log_format,
    )  # fmt: skip
    from aicp.server import serve_forever

    serve_forever(settings)
