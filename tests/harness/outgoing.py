"""Connections that a workload opens: the puppet calls a server in the client's pod, both ends check every byte."""

from __future__ import annotations

import socket
import time

from controller.lab.namespaces import in_network
from tests.harness.journeys import Puppet
from tests.harness.moving import Scene
from tests.harness.programs.puppet import Duplex

PORT = 7400


class Paced(socket.socket):
    """Some ten megabytes a second each way at most: a load that leaves the machine room for something else."""

    def send(self, data: object, flags: int = 0) -> int:
        time.sleep(0.002)
        return super().send(data, flags)  # type: ignore[arg-type]

    def recv(self, size: int, flags: int = 0) -> bytes:
        time.sleep(0.005)
        return super().recv(size, flags)


class Outgoing:
    """So many connections, streaming both ways until `finish`."""

    def __init__(self, stage: Scene, told: Puppet, connections: int) -> None:
        self._told, self._number = told, connections
        address = (stage.client.address, PORT)
        with in_network(stage.client, lambda: socket.create_server(address)) as server:
            server.settimeout(30)
            told.do("pumps = []")
            self._pumps = [self._call(server, address) for _ in range(connections)]

    def _call(self, server: socket.socket, address: tuple[str, int]) -> Duplex:
        self._told.do(f"pumps.append(Duplex(socket.create_connection({address!r})))")
        return Duplex(Paced(fileno=server.accept()[0].detach()))

    def finish(self) -> None:
        """Ends both directions of each; fails unless each side got what the other sent."""
        for number, pump in enumerate(self._pumps):
            pump.end()
            self._told.do(f"pumps[{number}].end()")
            theirs = self._told.do(f"pumps[{number}].counts()")
            ours = pump.counts()
            assert ours[2] == theirs[2] == "", (ours, theirs)
            assert ours[:2] == [theirs[1], theirs[0]], (ours, theirs)
            assert ours[0] > 0
            assert ours[1] > 0
