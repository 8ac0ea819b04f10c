"""`python -m checkpoint.memory.taker FOLDER`: fetches the memory of a restored workload while it runs. One process
a migration, started by the destination's agent before the freeze.

FOLDER is the migration's work folder. CRIU's restore connects to `lazy-pages.socket` there and hands over a userfaultfd
for each address space (criu: uffd.c). Descriptor 3 brings one JSON line, `{"identity", "runs"}`; an empty object comes
back. What has to come is in FOLDER/`wanted.json`, written by the agent before the restore: where the giver listens, and
which pages of which process. SIGUSR1 begins the fetching in the background; faults are served before that too. SIGUSR2
begins, before the freeze, what `early.json` says: where the giver listens, and how much it may send ahead. How it goes
is in `memory.json` (`checkpoint.memory.status`).

It depends on its agent for nothing and outlives it. When the source is lost it kills the workload, if that `runs`
meanwhile: a page that cannot come must not be taken for zeros, which is what the kernel gives once nobody has the
userfaultfd any more. For the case that this process is killed, the agent holds duplicates of every userfaultfd then.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoint.core import pagewire
from checkpoint.core.early import Part
from checkpoint.core.errors import AgentError
from checkpoint.core.pacing import LULL_SECONDS, Pace
from checkpoint.core.pages import PAGE_BYTES, Space
from checkpoint.core.pagewire import Answer, Request
from checkpoint.memory import channel, uffd, urgency
from checkpoint.memory.connection import Connection
from checkpoint.memory.process import Process
from checkpoint.memory.status import STATUS_SECONDS, State, Status
from checkpoint.memory.store import Store

CONTROL_FD = 3
LAZY_SOCKET = "lazy-pages.socket"
WANTED = "wanted.json"
EARLY = "early.json"
_RESTORE_FINISHED = 0x52535446  # criu: uffd.c, LAZY_PAGES_RESTORE_FINISHED

RECONNECT_SECONDS = 20.0
"""How long the source is looked for when the connection broke. Who needs a page waits."""

RETRY_SECONDS = 0.2
HEARD_AT_ONCE = 32  # as many answers as may be under way


class Lost(Exception):
    """The memory cannot come any more; the words say why."""


class Taker:
    """The loop: faults, answers, and CRIU's hand-over."""

    def __init__(self, folder: Path, secured: ssl.SSLContext, *, runs: bool) -> None:
        self._folder, self._secured, self._runs = folder, secured, runs
        self._selector = selectors.DefaultSelector()
        self._buffer = uffd.Buffer()
        self._processes: dict[int, Process] = {}
        self._victims: dict[int, int] = {}
        """A pidfd of each restored process, by its PID."""
        self._wanted: dict[str, Any] = {}
        self._store: Store | None = None
        self._early = False
        self._connection: Connection | None = None
        self._restored = False
        self._pace = Pace(runs=runs)
        self._urgency = urgency.Urgency()
        self._turn = 0
        self._status = Status(folder)
        self._told = time.monotonic()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / LAZY_SOCKET))
        listener.listen(1)
        self._watch(listener, lambda: self._accept(listener))

    def begin(self) -> None:
        """From now on everything is fetched, not only what somebody waits for."""
        if not self._pace.begun:
            self._status.began = time.monotonic()
            self._pace.begin(self._status.began)

    def begin_early(self) -> None:
        """Take what is sent ahead, from now on."""
        self._early = True

    def run(self) -> None:
        """Until everything has come. Raises Lost."""
        self._tell("waiting")
        while not self._complete():
            if self._early and self._store is None:
                self._take_early()
            self._ask_more()
            busy = self._connection is not None and self._connection.pending
            for key, _ in self._selector.select(0 if busy else self._patience()):
                key.data()
            if busy:
                self._hear()
            if time.monotonic() > self._told + STATUS_SECONDS:
                self._tell("fetching" if self._pace.begun else "waiting")
        self._finish()

    def _patience(self) -> float:
        """How long to wait for something to happen: where the background stands back, until it might go on."""
        return LULL_SECONDS if self._pace.begun else STATUS_SECONDS

    def _complete(self) -> bool:
        return self._restored and self._pace.begun and all(one.space.complete for one in self._processes.values())

    def _finish(self) -> None:
        """Tell the giver, who may let the source go then. One who is gone by now has nothing that we need. The copy is
        served until we end, for it is watched until then."""
        with contextlib.suppress(OSError, AgentError):
            giver = self._giver()
            giver.say(Request(pagewire.DONE))
            while giver.hear() is None:
                for key, _ in self._selector.select(STATUS_SECONDS):
                    if key.fileobj is not giver:
                        key.data()
        self._tell("complete")

    def _take_early(self) -> None:
        self._wanted = json.loads((self._folder / EARLY).read_bytes())
        self._store = Store(self._wanted["limit_bytes"])
        urgency.step_back()
        self._dare(self._connect)

    # -- CRIU's restore hands over

    def _accept(self, listener: socket.socket) -> None:
        criu, _ = listener.accept()
        self._selector.unregister(listener)
        listener.close()
        self._wanted = json.loads((self._folder / WANTED).read_bytes())
        if self._connection is None:
            self._dare(self._connect)
        self._watch(criu, lambda: self._take_over(criu))

    def _take_over(self, criu: socket.socket) -> None:
        """A PID, then its userfaultfd; a negative one is a zombie's, which has none; at the end a magic number."""
        raw = criu.recv(4, socket.MSG_WAITALL)
        word = int.from_bytes(raw, "little", signed=True)
        if word == _RESTORE_FINISHED:
            self._restored = True
        if len(raw) < 4 or self._restored:
            self._selector.unregister(criu)
            criu.close()
        elif word > 0:
            _, fds, _, _ = socket.recv_fds(criu, 1, 1)
            self._victims[word] = os.pidfd_open(word)
            pages = self._wanted["pages"].get(str(word), [])
            self._add(word, fds[0], Space((start, end) for start, end in pages))
            self._status.total_bytes += sum(end - start for start, end in pages)

    def _add(self, pid: int, fd: int, space: Space) -> None:
        one = Process(len(self._processes) + 1, pid, fd, space)
        one.on_fault, one.on_fork = self._fault, self._add
        self._processes[one.number] = one
        self._selector.register(fd, selectors.EVENT_READ, one.take_events)

    def _fault(self, one: Process, address: int) -> None:
        self._urgency.someone_waits(True)
        self._status.faults += 1
        self._pace.fault(time.monotonic())
        if requests := one.fault(address):
            self._ask(*requests)

    # -- the giver

    def _giver(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def _ask(self, *requests: Request) -> None:
        self._dare(lambda: self._giver().say(*requests))

    def _ask_more(self) -> None:
        """Keep the window of the background full, one process after the other; before that, have what came ahead put
        in its places."""
        if self._store is not None and not self._store.settled:
            if self._restored and self._pace.begun and (question := self._store.question()) is not None:
                self._ask(question)
            return
        ahead = self._pace.ahead(time.monotonic())
        if not ahead.window:
            return
        requests: list[Request] = []
        room = ahead.window - sum(one.space.asked_count for one in self._processes.values())
        room = room if room >= ahead.least else 0
        for _ in range(len(self._processes)):
            one = self._processes[1 + self._turn % len(self._processes)]
            while len(requests) < room and (found := one.space.next(ahead.size)):
                requests.append(one.request(found))
            if len(requests) >= room:
                break
            self._turn += 1
        if requests:
            self._urgency.someone_waits(False)
            self._ask(*requests)

    def _hear(self) -> None:
        self._dare(self._hear_some)

    def _hear_some(self) -> None:
        """What is there, one after the other; where somebody runs who may wait for something else, one alone."""
        connection = self._giver()
        connection.flush()
        for _ in range(1 if self._runs else HEARD_AT_ONCE):
            if (answer := connection.hear()) is None:
                return
            if self._store is not None and self._store.coming:
                self._keep(self._store, answer)
            elif self._store is not None and not answer.space:
                self._settle(self._store, answer)
            else:
                self._processes[answer.space].put(answer.number, self._buffer.address, answer.present)

    def _keep(self, store: Store, answer: Answer) -> None:
        store.take(answer, self._buffer.view)
        if not store.coming:
            urgency.claim()

    def _settle(self, store: Store, answer: Answer) -> None:
        if answer == Answer(0, 0, 0):
            store.settled = True
            return

        def fill(part: Part, address: int) -> None:
            for one in self._processes.values():
                if one.pid == part.process:
                    one.fill(part, address)

        store.settle(pagewire.decode_same(answer, self._buffer.view[:PAGE_BYTES]), fill)

    def _dare(self, act: Callable[[], None]) -> None:
        try:
            act()
        except (OSError, AgentError, KeyError) as error:
            self._reconnect(error)

    def _connect(self) -> None:
        """Raises OSError."""
        sock = channel.connect(self._wanted["host"], self._wanted["port"], self._secured)
        self._connection = Connection(sock, self._buffer.view)
        self._watch(self._connection, self._hear)
        if self._store is not None:
            self._connection.say(self._store.welcome())

    def _reconnect(self, why: Exception) -> None:
        """Another connection, and everything that is outstanding asked again. Raises Lost."""
        if self._connection is not None:
            self._selector.unregister(self._connection)
            self._connection.close()
            self._connection = None
        deadline = time.monotonic() + RECONNECT_SECONDS
        while self._connection is None:
            try:
                self._connect()
            except OSError as error:
                # Refused: its port is closed, so the process that had the memory has ended and comes back no more.
                if isinstance(error, ConnectionRefusedError) or time.monotonic() > deadline:
                    raise Lost(
                        f"The source could be reached no more: {error.strerror or error}, after: {why}"
                    ) from error
                time.sleep(RETRY_SECONDS)
        self._ask(*(request for one in self._processes.values() for request in one.outstanding()))

    # -- how it stands

    def _tell(self, state: State, reason: str = "") -> None:
        self._told = time.monotonic()
        left = sum(one.space.left_bytes for one in self._processes.values())
        if (one := self._store) is not None:
            self._status.early(coming=one.coming, size=one.size, kept_bytes=one.kept_bytes)
        self._status.write(state, left, self._told, reason)

    def give_up(self, reason: str) -> None:
        """Kill the workload, where it may run, and say why."""
        if self._runs:
            self._kill()
        self._tell("lost", reason)

    def _kill(self) -> None:
        """Also who was forked since: where this process ends, what has not come is zeros to them. Nobody forks
        meanwhile: a fork waits until it has been heard of here (K: userfaultfd.c, dup_userfaultfd_complete).
        """
        from checkpoint.kernel import Kernel  # here: they take a while to import, and are needed almost never
        from checkpoint.processes import tree

        kin = dict.fromkeys(one for pid, pidfd in self._victims.items() if _lives(pidfd) for one in tree.kin(pid))
        kernel = Kernel()
        tree.kill(kernel, tree.hold_all(kernel, kin))

    def _watch(self, what: socket.socket | Connection, call: Callable[[], None]) -> None:
        self._selector.register(what, selectors.EVENT_READ, call)


def _lives(pidfd: int) -> bool:
    return not select.select([pidfd], [], [], 0)[0]


def main() -> None:
    with socket.socket(fileno=CONTROL_FD) as control:
        order = json.loads(control.recv(1 << 20) or b"{}")
        if not order:
            return
        secured = channel.context(order["identity"].encode(), server=False)
        taker = Taker(Path(sys.argv[1]), secured, runs=order["runs"])
        signal.signal(signal.SIGUSR1, lambda *_: taker.begin())
        signal.signal(signal.SIGUSR2, lambda *_: taker.begin_early())
        urgency.claim()
        control.send(b"{}")
    try:
        taker.run()
    except Exception as error:
        taker.give_up(str(error))
        raise


if __name__ == "__main__":
    main()
