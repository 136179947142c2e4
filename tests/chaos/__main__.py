"""Kills the server with -9 as often as asked while 100 chains are in flight, and tells whether a promise was broken.

python -m tests.chaos [--database sqlite|postgresql] [--replicas N] [--kills N] [--seed S] [--customers N]
"""

import argparse
import random
import signal
import sys
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from tests.chaos.deployment import Deployment, sqlite_deployment
from tests.chaos.postgres_deployment import postgres_deployment
from tests.chaos.siege import CUSTOMERS, KillNine, Plan, besiege

KILLS = 300
DATABASES = ("sqlite", "postgresql")
TERMINATED = 143


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill the server, and judge the result.")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"how often; {KILLS} when left out")
    parser.add_argument("--seed", type=int, default=None, help="of chance; a fresh one when left out")
    parser.add_argument("--database", choices=DATABASES, default=DATABASES[0], help="which one the servers use")
    parser.add_argument("--replicas", type=int, default=2, help="servers on one PostgreSQL database; 2 when left out")
    parser.add_argument("--customers", type=int, default=CUSTOMERS, help="chains in flight")
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if asked.seed is None else asked.seed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that nothing it started is left behind
    say(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="aicp-chaos-") as name, deployed(asked, Path(name)) as deployment:
        outcome = besiege(deployment, Path(name), Plan(asked.kills, seed, asked.customers), KillNine(), tell=show)
    for what, figure in outcome.figures.items():
        say(f"{figure:>10} {what}")
    for breach in outcome.breaches:
        say(f"BROKEN: {breach}")
    say(f"seed {seed}: {'nothing was broken' if not outcome.breaches else 'see above'}")
    return bool(outcome.breaches)


def deployed(asked: argparse.Namespace, directory: Path) -> AbstractContextManager[Deployment]:
    if asked.database == "sqlite":
        return sqlite_deployment(directory)
    return postgres_deployment(directory, asked.replicas)


def show(progress: str) -> None:
    """On a terminal one line that changes, elsewhere nothing."""
    if sys.stdout.isatty():
        sys.stdout.write(f"\r{progress}  ")
        sys.stdout.flush()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
