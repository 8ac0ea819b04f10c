"""A pod as its folder describes it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from controller.lab.process import Process

RECORD = "pod.json"

PROXY_UID = 15008
"""The proxy's user, in standalone pods: nobody else's, and as easy to remember as its port."""


class Pod(msgspec.Struct, frozen=True):
    """A standalone pod. `pid1` is its first process as the host numbers it; 0 while it was not started."""

    name: str
    index: int
    address: str
    address6: str
    """Empty on a machine without IPv6."""
    directory: str
    link: str
    """The host's end of the veth."""
    images: str
    """Where its agent keeps images, on tmpfs."""
    cgroup: str = ""
    memory_bytes: int | None = None
    pid1: int = 0
    start_ticks: int = 0
    first_pid: int = 0
    """Where the PIDs of its workloads begin."""
    sidecars: bool = True
    cleartext_links: bool = False
    """Its proxy's links to other pods are not encrypted, and pods are not asked for certificates."""
    own_root: bool = False
    """Its root file system is an overlay of its own (`controller.lab.ownroot`)."""
    shared: list[str] = []
    """Folders of the machine that it shares although its root is its own, as they were named."""
    image_bytes: int = 0
    """How much room for images it has, on a tmpfs that no other pod sees; 0: they are on the machine's."""
    complete: bool = False
    """Whether its creator got to the end. Before that the pod's first process ends when the creator does."""

    @property
    def process(self) -> Process:
        return Process(self.pid1, self.start_ticks)

    @property
    def alive(self) -> bool:
        """Whether it was created to the end and its first process still runs."""
        return self.complete and self.process.alive

    @property
    def agent_socket(self) -> Path:
        return Path(self.directory) / "agent.sock"

    @property
    def proxy_socket(self) -> Path:
        return Path(self.directory) / "proxy" / "control.sock"

    @property
    def tls_folder(self) -> Path | None:
        """What its proxy shows other pods' proxies, and asks of them."""
        return None if self.cleartext_links else Path(self.directory) / "proxy" / "tls"

    @property
    def adopt_socket(self) -> Path:
        return Path(self.directory) / "proxy" / "adopt.sock"

    @property
    def home(self) -> str:
        """The lab's folder, which all its pods share."""
        return str(Path(self.directory).parent.parent)

    @property
    def root_folder(self) -> Path:
        """Where its own root is made."""
        return Path(self.directory) / "root"

    @property
    def layer(self) -> Path:
        """What has been written in it since it was made: the upper layer of its root."""
        return self.root_folder / "upper"

    def log(self, name: str) -> Path:
        return Path(self.directory) / f"{name}.log"


def save(pod: Pod) -> None:
    """Replaces the record in one step: a reader sees the old one or the new one."""
    path = Path(pod.directory) / RECORD
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(pod)))
    fresh.rename(path)


def neighbours(pod: Pod) -> list[Pod]:
    """The living pods of the same lab that have sidecars, this one included."""
    found = [load(folder) for folder in sorted(Path(pod.directory).parent.iterdir())]
    return [each for each in found if each is not None and each.alive and each.sidecars]


def load(directory: Path) -> Pod | None:
    """The pod recorded in a folder; None when there is no record, or none of this version's."""
    try:
        return msgspec.json.decode((directory / RECORD).read_bytes(), type=Pod)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
