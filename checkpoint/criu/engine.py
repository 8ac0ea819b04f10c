"""The engine on a process tree: CRIU through `swrk`, signals through pidfds."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from checkpoint.api import MemoryFeatures
from checkpoint.core import options, precopy, smaps
from checkpoint.core.errors import AgentError, Code
from checkpoint.criu import kerndat, log, pipes, shade
from checkpoint.criu.swrk import Swrk
from checkpoint.engine import Asking, DumpReport, Folders, Helper, RestoreReport
from checkpoint.images import chain
from checkpoint.images.folder import Images
from checkpoint.images.pb import Messages
from checkpoint.kernel import Kernel
from checkpoint.processes import procfs, stopping, waits
from checkpoint.processes import tree as trees
from checkpoint.processes.tree import Tree
from checkpoint.sockets.duplicates import is_tcp, sockets_of
from checkpoint.sockets.silence import silence

_LOG = logging.getLogger(__name__)

_GONE_SECONDS = 10.0
_STUCK_SECONDS = 0.5
"""So often it is looked whether a restore goes on: nothing that takes longer does so where all is well."""


class CriuEngine:
    """`checkpoint.engine.Engine` with CRIU."""

    def __init__(self, kernel: Kernel, criu: str, messages: Messages, cache: Path) -> None:
        """`cache` is a folder on a tmpfs, where `kerndat` keeps its survey."""
        self._kernel = kernel
        self._criu = criu
        self._messages = messages
        self._cache = cache

    async def version(self) -> str:
        """What `criu --version` says; raises AgentError CRIU_MISSING."""
        try:
            process = await asyncio.create_subprocess_exec(self._criu, "--version", stdout=asyncio.subprocess.PIPE)
        except OSError as error:
            raise AgentError(Code.CRIU_MISSING, f"{self._criu} cannot be started: {error.strerror}") from error
        output, _ = await process.communicate()
        words = output.decode().split()
        return words[1] if len(words) > 1 else ""

    async def features(self) -> MemoryFeatures:
        """CRIU's own feature check (criu: cr-service.c, handle_feature_check).

        One that cannot be asked has none: what else is wrong with it is told before each migration.
        """
        helper = Swrk(self._kernel, self._criu, self._messages)
        try:
            found = await helper.features()
        except AgentError:
            return MemoryFeatures()
        finally:
            await helper.close()
        most = pipes.most_bytes()
        return MemoryFeatures(most if found.lazy_pages else 0, most if found.mem_track else 0)

    async def prepare(
        self, root: int | None = None, *, asking: Asking = Asking.NOTHING, lazily: bool = False,
        inherited: Mapping[str, int] = MappingProxyType({}),
    ) -> Helper:  # fmt: skip
        if lazily:
            pipes.make_room()
        # Another CRIU on this machine takes away what it holds for a stale survey: make it again while there is time.
        await asyncio.to_thread(kerndat.ensure, self._criu, self._cache)
        wrapper = () if root is None else _dumpers_wrapper(root)
        asked = _asked(root, asking, lazily=lazily) if root is not None else None
        return Swrk(self._kernel, self._criu, self._messages, wrapper, lazily=lazily, asked=asked, inherited=inherited)

    async def stop(self, root: int) -> Tree:
        return await stopping.stop(self._kernel, root)

    async def pre_dump(self, helper: Helper, root: int, folders: Folders, parent: str) -> None:
        pipes.make_room()
        with log.told(folders.work / precopy.LOG), _open_folder(folders.work) as work_fd:
            wanted = precopy.pre_dump(root, str(folders.images), work_fd, parent)
            response = await _swrk(helper).request(self._messages.PRE_DUMP, wanted)
            if not response.success:
                raise log.failure(folders.work / precopy.LOG, restoring=False)

    async def dump(
        self, helper: Helper, root: int, folders: Folders, *, ghost_limit_bytes: int, lazily: bool = False,
        parent: str = "",
    ) -> DumpReport:  # fmt: skip
        more = options.lazily(_lazy_config(folders.work)) if lazily else precopy.after(parent) if parent else {}
        with log.told(folders.work / options.DUMP_LOG), _open_folder(folders.work) as work_fd:
            wanted = options.dump(root, str(folders.images), work_fd, ghost_limit_bytes) | more
            response = await _swrk(helper).request(self._messages.DUMP, wanted)
            if not response.success:
                raise log.failure(folders.work / options.DUMP_LOG, restoring=False)
        if parent:
            chain.cut(folders.images)
        images = Images(folders.images, self._messages)
        return DumpReport(len(images.processes()), images.seconds(folders.work, "dump"))

    def break_off(self, pid: int) -> None:
        try:
            self._kernel.forbid_writing(pid)
        except OSError as error:  # its real user id is another, and no CAP_SYS_RESOURCE is here (K: sys.c, prlimit64)
            _LOG.warning("CRIU (process %d) cannot be broken off: %s: waiting for its end", pid, error.strerror)

    async def restore(
        self, helper: Helper, folders: Folders, *, lazily: bool = False, inherited: Sequence[str] = ()
    ) -> RestoreReport:
        images = Images(folders.images, self._messages)
        pids = [process.pid for process in images.processes()]
        trees.require_free(pids)
        try:
            with log.told(folders.work / options.RESTORE_LOG):
                await self._restore(helper, folders, options.lazily() if lazily else {}, inherited)
                tree = await self._take(pids)
        except BaseException:
            await self._destroy(pids)
            raise
        return RestoreReport(pids[0], tree, images.seconds(folders.work, "restore"))

    async def _restore(
        self, helper: Helper, folders: Folders, more: dict[str, options.Option], inherited: Sequence[str]
    ) -> None:
        path = folders.work / options.RESTORE_LOG
        watching = asyncio.create_task(_give_up_stuck(helper, path), name="watch the restore")
        try:
            with _open_folder(folders.work) as work_fd:
                wanted = options.restore(str(folders.images), work_fd) | more
                response = await _swrk(helper).request(self._messages.RESTORE, wanted, inherited)
        except AgentError as error:
            if log.is_stuck(path):
                raise log.failure(path, restoring=True) from error
            raise
        finally:
            watching.cancel()
            await helper.close()
        if not response.success:
            raise log.failure(path, restoring=True)

    async def _take(self, pids: list[int]) -> Tree:
        """Hold the restored processes once all stand still, and check whose child the root is."""
        await stopping.until_stopped(self._kernel, pids)
        tree = trees.hold_all(self._kernel, pids)
        root = trees.stat(pids[0])
        if tree.pids != pids or root is None or root.parent != 1:
            tree.close()
            raise AgentError(Code.CRIU_FAILED, f"CRIU restored something else than the processes {pids}")
        return tree

    async def _destroy(self, pids: list[int]) -> None:
        """Leave no partial copy behind. The PIDs were free before the restore, so who has them now is of that copy.

        More than once: a half-made parent may make its children while it is looked at.
        """
        while any(trees.descendants(pid) for pid in pids):
            tree = trees.hold_all(self._kernel, pids)
            self.discard(tree)
            gone = await trees.until_gone(tree, _GONE_SECONDS)
            tree.close()
            if not gone:
                raise AgentError(Code.INTERNAL, f"a part of the copy does not end: {pids}")

    def resume(self, tree: Tree) -> None:
        trees.resume(self._kernel, tree)

    def kill(self, tree: Tree) -> None:
        trees.step_back(tree)
        trees.kill(self._kernel, tree)

    def discard(self, tree: Tree) -> None:
        silence(self._kernel, tree)
        trees.kill(self._kernel, tree)

    def release(self, tree: Tree, reuse_address: dict[int, bool], backlogs: dict[int, int]) -> None:
        """See Engine. The sockets are found by looking at every descriptor of the tree: it needs no images, so an agent
        that was killed in the middle of anything can do it after its restart.

        Whatever cannot be mended, the tree goes on: somebody may have killed one of its processes meanwhile.
        """
        done: set[int] = set()
        for member in tree.members:
            if not trees.is_alive(member.pid, member.start_time):
                continue
            for fd, ino in sockets_of(member.pid):
                if ino not in done:
                    try:
                        self._mend(member.pidfd, fd, reuse_address.get(ino), backlogs.get(ino))
                    except OSError as error:
                        _LOG.warning("descriptor %d of process %d stays as it is: %s", fd, member.pid, error)
                    else:
                        done.add(ino)
        waits.restart(self._kernel, tree)
        trees.resume(self._kernel, tree)

    def _mend(self, pidfd: int, fd: int, reuse_address: bool | None, backlog: int | None) -> None:
        with socket.socket(fileno=self._kernel.pidfd_getfd(pidfd, fd)) as sock:
            if backlog is not None:
                sock.listen(backlog)  # the proxy raised it
            if not is_tcp(sock):
                return
            in_repair = self._kernel.in_repair(sock)
            if in_repair:
                self._kernel.leave_repair(sock)
            # Leaving repair mode, here or in the proxy, sets SO_REUSEADDR to 0 (K: tcp.c, TCP_REPAIR_OFF).
            if reuse_address is not None or in_repair:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1 if reuse_address is None else reuse_address)


async def _give_up_stuck(helper: Helper, path: Path) -> None:
    """A task that finds something impossible in the last steps of a restore stands still for ever, and CRIU with it
    (criu: pie/restorer.c, BUG)."""
    while True:
        await asyncio.sleep(_STUCK_SECONDS)
        if log.is_stuck(path):
            helper.abort()
            return


@contextmanager
def _open_folder(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _lazy_config(work: Path) -> str:
    path = work / "lazy.conf"
    path.write_text(options.LAZY_CONFIG)
    return str(path)


def _asked(root: int, asking: Asking, *, lazily: bool) -> tuple[str, int] | None:
    """Which of CRIU's questions about that tree somebody else answers; none, where it has filters of its own. About
    areas only where that takes the kernel longer than all the files take that CRIU opens."""
    if asking is Asking.NOTHING or trees.is_filtered(root):
        return None
    if not lazily:
        return (shade.FILES if asking is Asking.DESCRIPTORS else shade.START), root
    sizes = [procfs.memory_bytes(pid)[0] for pid in trees.descendants(root)]
    return (shade.AREAS if max(sizes, default=0) >= smaps.MUCH_BYTES else shade.PAGES), root


def _dumpers_wrapper(root: int) -> list[str]:
    """What must come before CRIU on its command line for it to be able to dump this tree.

    It saves System V shared memory, semaphores and queues only of an IPC namespace that is not its own (criu:
    cr-dump.c, check_sysvipc_map_dump); the copy gets one of its own, then. And without CAP_SYS_RESOURCE it may read the
    limits only of processes whose ids are its own real ones (K: sys.c, check_prlimit_permission); the effective ones,
    which all else goes by, stay root's.
    """
    wrapper = ["/usr/bin/unshare", "--ipc", "--"] if procfs.has_sysv_ipc() else []
    owners = {owner for pid in trees.descendants(root) for owner in procfs.owners(pid)}
    if len(owners) == 1 and not procfs.may_read_limits():
        uid, gid = owners.pop()
        if (uid, gid) != (0, 0):
            wrapper += ["/usr/bin/setpriv", "--ruid", str(uid), "--rgid", str(gid), "--keep-groups", "--"]
    return wrapper


def _swrk(helper: Helper) -> Swrk:
    if not isinstance(helper, Swrk):
        raise TypeError("this engine prepares its helpers itself")
    return helper
