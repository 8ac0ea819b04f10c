"""A pod that is far away: its cable is long, and loses, doubles and delays frames (`tests.harness.programs.far`)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from controller.lab.home import Home
from controller.lab.lab import Lab
from controller.lab.pod import Pod
from tests.harness.journeys import PROGRAMS


class Frames(NamedTuple):
    carried: int
    lost: int
    doubled: int
    delayed: int


@contextmanager
def far_away(lab: Lab, pod: Pod, seconds: float, share: float, seed: int) -> Iterator[list[Frames]]:
    """For as long as the block lasts each way takes `seconds`, and `share` of the frames are lost, as many doubled, and
    as many overtaken. What has happened to them is in the list after it."""
    addressing = Home(lab.home).addressing()
    assert addressing is not None
    yard, ends = f"{pod.link}b", (f"{pod.link}x", f"{pod.link}y")
    found: list[Frames] = []
    with ExitStack() as undo:
        cable = _Cable(*ends, seconds, share, seed)
        undo.callback(lambda: found.append(cable.end()))
        _ip("link", "add", yard, "type", "bridge")
        undo.callback(_ip, "link", "del", yard)
        _ip("link", "set", yard, "up")
        _ip("link", "set", ends[0], "master", yard, "up")
        _ip("link", "set", ends[1], "master", addressing.bridge, "up")
        undo.callback(_ip, "link", "set", pod.link, "master", addressing.bridge)
        _ip("link", "set", pod.link, "master", yard)
        yield found


class _Cable:
    def __init__(self, *arguments: object) -> None:
        argv = (sys.executable, "-S", str(PROGRAMS / "far.py"), *map(str, arguments))
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def end(self) -> Frames:
        said, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, "the cable has broken"
        return Frames(*map(int, said.split()))


def _ip(*arguments: str) -> None:
    subprocess.run(("ip", *arguments), check=True)
