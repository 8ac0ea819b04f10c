"""A lab: standalone pods on plain Linux, joined by a bridge of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from controller.lab import cgroup, init, network
from controller.lab.addressing import Addressing, candidates, check_name, check_socket_path, collides, free_index
from controller.lab.errors import NoFreeSubnet, NoSuchPod, NotRoot, PodExists, TooSmall
from controller.lab.home import Home, check_shared, images_root, make_private, remove_tree
from controller.lab.pod import PROXY_UID, Pod, load, save
from controller.lab.readiness import wait_ready
from controller.lab.start import start

DEFAULT_HOME = Path("/run/midstream")
LEAST_MEMORY_BYTES = 64 << 20
"""Below 48 MiB a proxy and an agent are killed as they start."""
LEAST_IMAGE_BYTES = 4 << 20
"""The images of the smallest process have 0.1 MiB, those of an empty Redis 2.7."""

END_GRACE_SECONDS = init.GRACE_SECONDS + 3.0
"""PID 1 ends the pod within its own grace; past this it hangs itself, and the kernel ends the pod with it."""


def default_home() -> Path:
    """MIDSTREAM_HOME, or /run/midstream."""
    return Path(os.environ.get("MIDSTREAM_HOME") or DEFAULT_HOME)


class Wanted(NamedTuple):
    """A pod that is asked for."""

    name: str
    memory_bytes: int | None
    sidecars: bool
    cleartext_links: bool
    own_root: bool
    shared: tuple[str, ...]
    image_bytes: int


class Lab:
    """The pods of one MIDSTREAM_HOME. Nothing is kept in memory: any number of processes may use one lab at once."""

    def __init__(self, home: Path | str | None = None) -> None:
        self._home = Home(Path(home or default_home()).absolute())
        self._turn = asyncio.Lock()
        self._placing: set[asyncio.Task[Pod]] = set()

    @property
    def home(self) -> Path:
        return self._home.path

    def pods(self) -> list[Pod]:
        """Every pod there is, in the order of their indices; `alive` tells which of them live."""
        found = [load(folder) for folder in self._home.pods.glob("*/")]
        return sorted((pod for pod in found if pod is not None), key=lambda pod: pod.index)

    def pod(self, name: str) -> Pod:
        """One pod. Raises BadName and NoSuchPod."""
        pod = load(self._home.pods / check_name(name))
        if pod is None:
            raise NoSuchPod(f"there is no pod {name} in {self.home}")
        return pod

    async def create(
        self,
        name: str,
        *,
        memory_bytes: int | None = None,
        sidecars: bool = True,
        cleartext_links: bool = False,
        own_root: bool = False,
        shared: Sequence[str] = (),
        image_bytes: int = 0,
    ) -> Pod:
        """Makes a pod and returns when its sidecars serve; several may be created at once, and then start side by side.

        `own_root`: what it writes stays its own, but for what it writes below the `shared` paths of the machine.
        `image_bytes`: it keeps images on a tmpfs of that size, which no other pod sees: as on a machine of its own.
        What is left of a dead pod of that name is cleared away first. When it fails, or is cancelled, nothing is left.
        Raises a LabError.
        """
        wanted = Wanted(name, memory_bytes, sidecars, cleartext_links, own_root, tuple(shared), image_bytes)
        placing = asyncio.create_task(self._place_in_turn(wanted), name=f"place pod {name}")
        self._placing.add(placing)
        placing.add_done_callback(self._placing.discard)
        try:
            pod = await asyncio.shield(placing)
            if sidecars:
                await wait_ready(pod)
        except BaseException:
            await asyncio.wait([placing])  # a thread cannot be cancelled: let it finish, then undo it
            if not placing.cancelled() and placing.exception() is None:
                await asyncio.to_thread(self._end, placing.result())
            raise
        return pod

    async def delete(self, name: str) -> None:
        """Ends a pod and all that is in it, and removes every trace of it. Raises BadName and NoSuchPod."""
        _require_root()
        pod = load(self._home.pods / check_name(name))
        if pod is not None:
            await asyncio.to_thread(self._end, pod)
        elif (self._home.pods / name).is_dir():  # its creator died before it wrote the record: there is but the folder
            await asyncio.to_thread(self._clear_folder, name)
        else:
            raise NoSuchPod(f"there is no pod {name} in {self.home}")

    async def delete_all(self) -> None:
        """Deletes every pod, those this object is making too, side by side; the last takes the bridge with it."""
        if self._placing:
            await asyncio.wait(set(self._placing))
        await asyncio.gather(*(asyncio.to_thread(self._end, pod) for pod in self.pods()))

    async def _place_in_turn(self, wanted: Wanted) -> Pod:
        """The first asked for gets the first address: the lock is fair, where flock(2) between threads is not."""
        async with self._turn:
            return await asyncio.to_thread(self._place, wanted)

    def _place(self, wanted: Wanted) -> Pod:
        check_socket_path(str(self._home.pods / check_name(wanted.name) / "proxy" / "control.sock"))
        _require_room(wanted)
        _require_root()
        with self._home.locked() as lock:
            try:
                self._clear_dead(wanted.name)
                lab = self._addressing()
                return self._make(lab, self._plan(lab, wanted), lock)
            except BaseException:
                self._forget_if_empty()
                raise

    def _make(self, lab: Addressing, pod: Pod, lock: int) -> Pod:
        """Makes the planned pod; leaves nothing of it when that fails."""
        try:
            self._make_folders(lab, pod)
            if pod.memory_bytes is not None:
                cgroup.create(Path(pod.cgroup), pod.memory_bytes)
            return start(lab, pod, lock)
        except BaseException:
            self._remove(load(Path(pod.directory)) or pod)
            raise

    def _plan(self, lab: Addressing, wanted: Wanted) -> Pod:
        name, memory_bytes = wanted.name, wanted.memory_bytes
        index = free_index({pod.index for pod in self.pods()})
        return Pod(
            name=name,
            index=index,
            address=str(lab.address(index)),
            address6=str(lab.address6(index)) if network.has_ipv6() else "",
            directory=str(self._home.pods / name),
            link=lab.link(index),
            images=str(images_root(lab) / name),
            cgroup="" if memory_bytes is None else str(cgroup.place(f"midstream-{lab.number}-{name}")),
            memory_bytes=memory_bytes,
            sidecars=wanted.sidecars,
            cleartext_links=wanted.cleartext_links,
            own_root=wanted.own_root,
            shared=[*map(check_shared, wanted.shared)],
            image_bytes=wanted.image_bytes,
        )

    def _make_folders(self, lab: Addressing, pod: Pod) -> None:
        """The record first: from then on whatever is made can be found and removed."""
        directory = Path(pod.directory)
        directory.mkdir(parents=True)
        save(pod)
        for name, uid in (("proxy", PROXY_UID), ("agent", 0)):
            (directory / name).mkdir(mode=0o700)
            os.chown(directory / name, uid, uid)
        if pod.own_root:
            pod.root_folder.mkdir(mode=0o700)
            for name in ("upper", "work", "merged"):
                (pod.root_folder / name).mkdir()
        if pod.sidecars:
            # Here, not above: X.509 takes 30 ms, and most commands make no pod.
            from controller.lab.certificates import Authority

            Authority(self._home.ca).equip(pod)
        make_private(images_root(lab))
        make_private(Path(pod.images))

    def _addressing(self) -> Addressing:
        """The lab's number, with its bridge in place."""
        known = self._home.addressing()
        if known is not None and network.bridge_of(known) in (str(self.home), ""):
            return known
        taken = network.networks_in_use()
        for lab in candidates(str(self.home)):
            if not collides(lab, taken):
                self._home.record(lab)
                if network.add_bridge(lab, str(self.home)):
                    return lab
        raise NoFreeSubnet("every subnet that a lab may have overlaps one of this machine's")

    def _clear_dead(self, name: str) -> None:
        pod = load(self._home.pods / name)
        if pod is not None and pod.alive:
            raise PodExists(f"there is a pod {name} already")
        if pod is not None:
            self._remove(pod)
        remove_tree(self._home.pods / name)

    def _clear_folder(self, name: str) -> None:
        with self._home.locked():
            if load(self._home.pods / name) is None:
                remove_tree(self._home.pods / name)
                self._forget_if_empty()

    def _end(self, pod: Pod) -> None:
        """Kills outside the lock: several pods end side by side. Then removes, unless it is another pod by now."""
        pod.process.end(END_GRACE_SECONDS)
        if not self.home.exists():
            return
        with self._home.locked():
            if load(Path(pod.directory)) == pod:
                self._remove(pod)
            self._forget_if_empty()

    def _remove(self, pod: Pod) -> None:
        pod.process.end(0)  # alive if its creator died just before it could write that it was done
        network.remove_link(pod.link)
        if pod.cgroup:
            cgroup.remove(Path(pod.cgroup))
        remove_tree(Path(pod.images))
        remove_tree(Path(pod.directory))

    def _forget_if_empty(self) -> None:
        """The last pod takes the bridge and the folders with it."""
        if any(self._home.pods.glob("*/")):
            return
        lab = self._home.addressing()
        if lab is not None and network.bridge_of(lab) in (str(self.home), ""):
            network.remove_link(lab.bridge)
        self._home.forget(lab)


def _require_room(wanted: Wanted) -> None:
    if wanted.memory_bytes is not None and wanted.memory_bytes < LEAST_MEMORY_BYTES:
        raise TooSmall(f"a pod needs {LEAST_MEMORY_BYTES >> 20} MiB of memory at least, for its sidecars alone")
    if 0 < wanted.image_bytes < LEAST_IMAGE_BYTES:
        raise TooSmall(f"a space for images has {LEAST_IMAGE_BYTES >> 20} MiB at least")


def _require_root() -> None:
    if os.geteuid() != 0:
        raise NotRoot("pods can be created and deleted by root only")
