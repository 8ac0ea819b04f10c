"""What tells a copy from the original, in its images: inherited connections are closed, addresses are the new pod's.

A closed connection is a TCP socket that was never bound nor connected: reading gives ENOTCONN, epoll says EPOLLHUP, so
its owner drops it. Connections with both ends in the tree stay: the copy has both ends too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from checkpoint.core import flows
from checkpoint.core.flows import InetSocket
from checkpoint.core.stored import Connection
from checkpoint.images.folder import Images


def connections(images: Images) -> list[Connection]:
    """The TCP connections in a dump, with what was in their queues."""
    sockets = images.sockets()
    within = inside(sockets)
    return [_connection(images, one, one in within) for one in sockets if one.is_tcp and one.connected]


def inside(sockets: Iterable[InetSocket]) -> list[InetSocket]:
    """The connections whose other end is there too."""
    connected = [one for one in sockets if one.is_tcp and one.connected]
    ends = {(one.local, one.peer) for one in connected}
    return [one for one in connected if (one.peer, one.local) in ends]


def make_copy(folder: Path, images: Images, readdress: Mapping[str, str], logs: Mapping[str, str]) -> int:
    """Edit the images so that they restore a copy; gives how many connections it will find closed.

    `logs` exchanges paths of open files. Raises AgentError IMAGE_DAMAGED.
    """
    sockets = images.sockets()
    within = inside(sockets)
    closed = [one.ino for one in sockets if one.is_tcp and one.connected and one not in within]
    images.close_connections(closed)
    images.rename_files(logs)
    images.edit_sockets(readdress, within)
    for ino in closed:
        (folder / f"tcp-stream-{ino:x}.img").unlink(missing_ok=True)
    return len(closed)


def _connection(images: Images, one: InetSocket, within: bool) -> Connection:
    unread, unsent = 0, 0
    if one.state in flows.MOVABLE:
        numbers = images.stream(one.ino).numbers
        unread, unsent = numbers.inq_len, numbers.outq_len
    return Connection(_end(one.local), _end(one.peer), unread, unsent, within)


def _end(end: flows.End) -> str:
    host, port = end
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
