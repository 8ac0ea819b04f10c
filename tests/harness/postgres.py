"""A PostgreSQL cluster of a test's own, and its clients in the client's pod."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

from tests.harness.journeys import Cli
from tests.harness.moving import Scene, until

POSTGRES = pwd.getpwnam("postgres")[2:4]
POSTGRES_PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"))
POSTGRES_PORT = 7103


def make_cluster(folder: Path) -> None:
    """A database cluster that nobody else reaches, the postgres user's own."""
    folder.mkdir()
    os.chown(folder, *POSTGRES)
    options = ["--no-sync", "--auth", "trust", "--encoding", "UTF8", "--locale", "C"]
    argv = [f"{POSTGRES_PROGRAMS}/initdb", *options, str(folder)]
    subprocess.run(argv, user=POSTGRES[0], group=POSTGRES[1], extra_groups=[], cwd="/", check=True, capture_output=True)
    with (folder / "pg_hba.conf").open("a") as file:
        file.write("host all all 0.0.0.0/0 trust\n")


class Psql:
    """A psql in the client's pod that is told statements and answers with rows."""

    def __init__(self, stage: Scene) -> None:
        self._cli = Cli(
            stage.client,
            "/usr/bin/psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only",
            "-h", stage.a.address, "-p", str(POSTGRES_PORT), "-U", "postgres",
        )  # fmt: skip

    def tell(self, statement: str) -> None:
        self.type(f"{statement};", "\\echo done")

    def type(self, *lines: str) -> None:
        self._cli.say(*lines)

    def hear(self) -> list[str]:
        """What it said since the last time, to the end of the statement that was told then."""
        return list(iter(self._cli.hear, "done"))

    def ask(self, statement: str) -> list[str]:
        self.tell(statement)
        return self.hear()

    def end(self) -> None:
        self._cli.close()


async def shut_down(pod, pid: int, data: Path) -> None:
    """Its own fast shutdown: killed, it would leave its shared memory in /dev/shm, which is the machine's."""
    subprocess.run(["nsenter", f"--target={pod.pid1}", "--pid", "--mount", "kill", "-INT", str(pid)], check=True)
    await until(lambda: not (data / "postmaster.pid").exists(), "PostgreSQL does not end", 60)


def ready(data: Path) -> bool:
    """Its last word into postmaster.pid."""
    file = data / "postmaster.pid"
    return file.exists() and "ready" in file.read_text()
