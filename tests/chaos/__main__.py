"""Strikes servers while 100 chains are in flight, and tells whether a promise was broken.

python -m tests.chaos [--database sqlite|postgresql] [--replicas N] [--storm NAME] [--kills N] [--seed S]
    [--customers N]
"""

import argparse
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from tests.chaos.deployment import Deployment, SqliteDeployment, sqlite_deployment
from tests.chaos.failovers import DatabasePaused, Failover, Locked
from tests.chaos.flipped_bits import FlippedBits
from tests.chaos.outages import Blackhole, CutMidCommit, Pause, PostgresKilled, RollingRestart, Slow
from tests.chaos.postgres_deployment import PostgresDeployment, postgres_deployment
from tests.chaos.siege import CUSTOMERS, KillNine, Outcome, Plan, Storm, besiege

D = TypeVar("D", bound=Deployment)
KILLS = 300
STRIKES = 10
TERMINATED = 143
SQLITE, POSTGRESQL = "sqlite", "postgresql"
KILL_NINE, ROLLING_RESTART, ALL = "kill-nine", "rolling-restart", "all"
FLIPPED_BITS = "flipped-bits"
OF_POSTGRESQL: Mapping[str, Callable[[PostgresDeployment], Storm]] = {
    KILL_NINE: lambda _: KillNine(),
    "pause": lambda _: Pause(),
    "postgres-killed": PostgresKilled,
    "unreachable": Blackhole,
    "partition": lambda deployment: Blackhole(deployment, everyone=False),
    "slow": Slow,
    "cut-mid-commit": CutMidCommit,
    "failover": Failover,
    "locked": Locked,
    "database-paused": DatabasePaused,
    ROLLING_RESTART: lambda _: RollingRestart(),
}


OF_SQLITE: Mapping[str, Callable[[SqliteDeployment], Storm]] = {
    KILL_NINE: lambda _: KillNine(),
    FLIPPED_BITS: FlippedBits,
}


def main() -> int:
    asked = parse()
    seed = random.SystemRandom().randrange(1_000_000) if asked.seed is None else asked.seed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that nothing it started is left behind
    storms = OF_POSTGRESQL if asked.storm == ALL else [asked.storm]
    breaches = [breach for storm in storms for breach in weather(asked, storm, seed)]
    say(f"seed {seed}: {'nothing was broken' if not breaches else 'see above'}")
    return bool(breaches)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Strike servers, and judge the result.")
    parser.add_argument("--database", choices=[SQLITE, POSTGRESQL], default=SQLITE, help="which one the servers use")
    parser.add_argument("--replicas", type=int, default=2, help="servers on one PostgreSQL database; 2 when left out")
    parser.add_argument(
        "--storm",
        choices=[*OF_POSTGRESQL, FLIPPED_BITS, ALL],
        default=KILL_NINE,
        help="kill-nine and flipped-bits are for SQLite, all but flipped-bits for PostgreSQL",
    )
    parser.add_argument(
        "--kills", type=int, help=f"how often; {KILLS} times kill-nine, {STRIKES} times any other storm"
    )
    parser.add_argument("--seed", type=int, help="of chance; a fresh one when left out")
    parser.add_argument("--customers", type=int, default=CUSTOMERS, help="chains in flight")
    asked = parser.parse_args()
    storms = OF_SQLITE if asked.database == SQLITE else {*OF_POSTGRESQL, ALL}
    if asked.storm not in storms:
        parser.error(f"with --database {asked.database} the storms are: {', '.join(sorted(storms))}")
    return asked


def weather(asked: argparse.Namespace, storm: str, seed: int) -> list[str]:
    """One siege under one storm; what was broken."""
    strikes = asked.kills or (KILLS if storm == KILL_NINE else STRIKES)
    plan = Plan(strikes, seed, asked.customers, one_door=storm == ROLLING_RESTART)
    say(f"{storm}, seed {seed}")
    with tempfile.TemporaryDirectory(prefix="aicp-chaos-") as name:
        directory = Path(name)
        if asked.database == SQLITE:
            outcome = under(sqlite_deployment(directory), OF_SQLITE[storm], directory, plan)
        else:
            deployed = postgres_deployment(
                directory, asked.replicas, with_ways=storm not in {KILL_NINE, ROLLING_RESTART}
            )
            outcome = under(deployed, OF_POSTGRESQL[storm], directory, plan)
    for what, figure in outcome.figures.items():
        say(f"{figure:>10} {what}")
    for breach in outcome.breaches:
        say(f"BROKEN: {breach}")
    return outcome.breaches


def under(
    deployed: AbstractContextManager[D], make_storm: Callable[[D], Storm], directory: Path, plan: Plan
) -> Outcome:
    with deployed as deployment:
        return besiege(deployment, directory, plan, make_storm(deployment), tell=show)


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
