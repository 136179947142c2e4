"""`aicp doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from aicp.cli.exits import OK, WORK_FAILED
from aicp.cli.output import Format, Output, Sheet, write


def doctor(
    agents: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also check the permissions of this list of agents."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Look whether everything is in order: server, key, versions, clocks, data directory, database, agents.

    Files with secrets that other users can read or change are listed too.

    Each line says ok, warn or fail, and what to do. The exit code is 1 when something fails, else 0.
    """
    from aicp.cli.server_checks import check_server
    from aicp.model.endpoint import leads_to_loopback
    from aicp.runtime.checkup import Verdict, check_machine
    from aicp.runtime.settings import server_url

    url = server_url()
    findings = list(check_server(url))
    if leads_to_loopback(url):
        findings += check_machine(agents_file=agents)
    rows = [(each.check, each.verdict, each.told, each.advice) for each in findings]
    write(findings, output, Sheet(("check", "is", "found", "what to do"), rows))
    raise typer.Exit(WORK_FAILED if any(each.verdict is Verdict.FAIL for each in findings) else OK)
