"""`python -m checkpoint.memory.giver`: gives the memory of a stopped workload, page by page, to whoever proves to have
the migration's key. One process a migration, started by the source's agent before the freeze.

It talks to its agent over descriptor 3 (SOCK_SEQPACKET, JSON), and answers each order:

- `{"identity", "host"}`, the first one: answered with `{"port"}`
- `{"rate": bytes a second}`: give no more; 0, as in the beginning: no limit
- `{"spare": [pid, …]}` with the listener of CRIU's questions about these, where there is one
  (`checkpoint.memory.sparing`); the first time it begins to look through their memory (`checkpoint.memory.survey`)
- `{"survey": seconds}`: answered with `{"ahead": bool}` once it has done so, or this time has passed
- `{"early": [pid, …]}`: these run, and their memory may be sent before the freeze (`checkpoint.memory.early`)
- `{"open": [pid, …]}` once the workload stands still
- `{"show": {pid: [descriptor, …]}}` then: CRIU is to see these alone
- `{"map": path}` after the dump: write there what CRIU was spared; answered with `{"shortened": [pid, …]}`, those of
  whose large areas it was shown a part
- `{"commit": true}` when the workload is given up

Until the commit it ends with its agent. From then on it goes on without one: the destination lives by it. It ends when
the taker says that everything has come (status 0), or when no taker has been there for a while, or memory cannot be
read, since somebody has killed the workload (1).
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

from checkpoint.core import pagewire
from checkpoint.core.errors import AgentError
from checkpoint.core.pagewire import Answer, Request
from checkpoint.core.throttle import Throttle
from checkpoint.memory import channel, urgency
from checkpoint.memory.answers import Answers
from checkpoint.memory.early import Early
from checkpoint.memory.reading import Memory
from checkpoint.memory.requests import Requests
from checkpoint.memory.sparing import Sparing
from checkpoint.memory.survey import Survey

CONTROL_FD = 3
RECONNECT_SECONDS = 30.0
"""How long the memory is kept for a destination that is silent: a broken connection is made again within seconds."""

SWITCH_SECONDS = 0.0002
"""Inside the freeze one thread looks through the memory, and CRIU waits for the answers of another."""

_LOOK_SECONDS = 0.5
_MAX_ORDER_BYTES = 1 << 20


class Unreadable(Exception):
    """Of memory that was asked for. It stands still, so that is for good; the words say why."""


class Giver:
    """Serves one taker after the other, in a thread; the main thread listens to the agent."""

    def __init__(self, control: socket.socket, identity: bytes, host: str) -> None:
        self._control = control
        self._secured = channel.context(identity, server=True)
        self._listener = channel.listen(host)
        self._listener.settimeout(_LOOK_SECONDS)
        self._memory = Memory()
        self._early: Early | None = None
        self._committed = threading.Event()
        self._survey = Survey()
        self._sparing: Sparing | None = None
        self._throttle = Throttle(0)

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def obey(self) -> None:
        """Until the agent has committed; ends the process where the agent ends before."""
        while not self._committed.is_set():
            raw, fds, _, _ = socket.recv_fds(self._control, _MAX_ORDER_BYTES, 1)
            if not raw:
                os._exit(1)
            self._control.send(json.dumps(self._do(json.loads(raw), fds)).encode())

    def _do(self, order: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        try:
            if "spare" in order:
                self._sparing = Sparing(fds[0], self._survey)
                self._survey.begin_ahead(order["spare"])
            if "survey" in order:
                return {"ahead": self._survey.is_ahead(order["survey"])}
            if "early" in order:
                self._early = Early(order["early"])
            if "open" in order:
                self._memory.open(order["open"])
                if self._early is not None:
                    self._early.compare(self._memory)
                if self._sparing is not None:
                    self._survey.begin(order["open"])
            if "show" in order and self._sparing is not None:
                self._sparing.show({int(pid): some for pid, some in order["show"].items()})
            if "map" in order and self._sparing is not None:
                self._sparing.write(Path(order["map"]))
                return {"shortened": self._sparing.shortened}
            if "rate" in order:
                self._throttle = Throttle(order["rate"])
        except OSError as error:
            return {"error": str(error)}
        if order.get("commit"):
            self._committed.set()
        return {}

    def serve(self) -> None:
        """Ends the process: with 0 when all is given and committed."""
        alone_since = time.monotonic()
        while not self._committed.is_set() or time.monotonic() < alone_since + RECONNECT_SECONDS:
            try:
                with channel.accept(self._listener, self._secured) as taker:
                    if self._serve(taker):
                        self._committed.wait()
                        os._exit(0)
            except Unreadable as error:
                print(f"memory cannot be read any more: {error}", file=sys.stderr, flush=True)
                break
            except TimeoutError:
                continue
            except (OSError, AgentError) as error:
                print(f"the taker's connection ended: {error}", file=sys.stderr, flush=True)
            alone_since = time.monotonic()
        os._exit(1)

    def _serve(self, taker: ssl.SSLSocket) -> bool:
        """Answer requests; True when the taker has everything, False when it hung up."""
        mine = urgency.Urgency()
        urgency.claim()  # the taker before this one may have gone while it was sent something ahead
        requests = Requests(taker)
        answers = Answers(taker, requests, lambda: self._throttle)
        early: Early | None = None
        """Once this taker has said what it has of what was sent before."""

        while one := requests.next(answers.pause):
            if one.kind in pagewire.FOR_PAGES:
                mine.someone_waits(one.kind != pagewire.GET)
                answers.give(self._answer(one), urgent=one.kind == pagewire.NOW)
                continue
            if one.kind == pagewire.EARLY and (early := self._early) is not None:
                urgency.step_back()
                early.send(one.number, one.size, answers.give)
                urgency.claim()
            if one.kind == pagewire.SAME and early is not None:
                for same in early.same():
                    answers.give(pagewire.encode_same(same))
            answers.give(pagewire.encode_answer(Answer(0, 0, 0)))
            if one.kind == pagewire.DONE:
                return True
        return False

    def _answer(self, one: Request) -> memoryview:
        """Raises Unreadable."""
        try:
            return self._memory.answer(one)
        except (OSError, KeyError) as error:
            raise Unreadable(str(error)) from error


def main() -> None:
    control = socket.socket(fileno=CONTROL_FD)
    order = json.loads(control.recv(1 << 20) or b"{}")
    if not order:
        return
    sys.setswitchinterval(SWITCH_SECONDS)
    giver = Giver(control, order["identity"].encode(), order["host"])
    urgency.claim()
    control.send(json.dumps({"port": giver.port}).encode())
    threading.Thread(target=giver.serve, name="give", daemon=True).start()
    giver.obey()
    threading.Event().wait()  # the thread ends the process


if __name__ == "__main__":
    main()
