"""The server keeps to its own document: Schemathesis takes it at its word, with every check it has."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.integration.test_server_connections import ROOT, limited_server

HOOKS = "tests.integration.schemathesis_hooks"
EXAMPLES_OF_EACH_ROUTE = "2"
SEED = os.environ.get("SCHEMATHESIS_SEED", "1")


@pytest.mark.timeout(300)
def test_server_keeps_to_its_own_document(tmp_path: Path) -> None:
    with limited_server(tmp_path / "data", header_s=10.0, body_s=30.0) as (_, url, key):
        document = tmp_path / "openapi.json"
        with urlopen(Request(f"{url}/openapi.json", headers={"Authorization": f"Bearer {key}"}), timeout=30) as told:
            document.write_bytes(told.read())
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", url,
            "--header", f"Authorization: Bearer {key}",
            "--phases", "examples,coverage,fuzzing", "--checks", "all",
            "--workers", "1",  # in two threads Hypothesis meets a fault of the parser of CPython 3.11
            "--max-examples", EXAMPLES_OF_EACH_ROUTE, "--seed", SEED, "--no-color",
            "--exclude-path", "/api/events",  # an answer without an end
        ]  # fmt: skip
        # Beside the hooks, the root of the tests must be found by a command that knows nothing of them.
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
    assert ran.returncode == 0, f"seed {SEED}\n{ran.stdout[-20_000:]}{ran.stderr[-2_000:]}"
