"""A workload for the tests: a TCP server whose every byte can be foretold. Standard library only.

usage: server.py PORT [HOST]. The first byte of a connection chooses what it does:
  E  sends back whatever comes, reading on while it writes
  S  sends the pattern without end
  Q  reads nothing (megabytes pile up unread) until a file named by argv[3] appears, then counts, and at the end of the
     stream answers with "<count> <right or wrong>"
"""

import selectors
import socket
import sys
from pathlib import Path

SO_RCVBUFFORCE = 33  # asm-generic/socket.h; not in Python's socket module
PATTERN = bytes(range(251)) * 5000


def pattern_at(offset, length):
    start = offset % 251
    longer = PATTERN if start + length <= len(PATTERN) else PATTERN * (length // len(PATTERN) + 2)
    return longer[start : start + length]


class Connection:
    def __init__(self, sock):
        self.sock, self.mode, self.out, self.sent, self.got, self.right = sock, None, bytearray(), 0, 0, True
        self.ended = False

    def events(self, quiet):
        reading = self.mode != b"Q" or not quiet
        wanted = selectors.EVENT_READ if reading and len(self.out) < 4 << 20 and not self.ended else 0
        return wanted | (selectors.EVENT_WRITE if self.out or self.mode == b"S" else 0)

    def readable(self):
        data = self.sock.recv(262144)
        if not data:
            self.ended = True
            if self.mode == b"Q":
                self.out += b"%d %s" % (self.got, b"right" if self.right else b"wrong")
            return
        if self.mode is None:
            self.mode, data = data[:1], data[1:]
        if self.mode == b"E":
            self.out += data
        elif self.mode == b"Q":
            self.right = self.right and data == pattern_at(self.got, len(data))
            self.got += len(data)

    def writable(self):
        if self.mode == b"S":
            self.sent += self.sock.send(pattern_at(self.sent, 200000))
        elif self.out:
            del self.out[: self.sock.send(self.out)]

    def over(self):
        return self.ended and not self.out and self.mode != b"S"


def serve(port, host, gate):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if gate:  # so that megabytes fit in unread: a socket that nobody reads does not grow by itself
        listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
    listener.bind((host, port))
    listener.listen(64)
    listener.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    connections = {}
    while True:
        quiet = bool(gate) and not Path(gate).exists()
        for connection in list(connections.values()):
            update(selector, connection, connection.events(quiet))
        for key, events in selector.select(0.05 if quiet else None):
            if key.fileobj is listener:
                sock, _ = listener.accept()
                sock.setblocking(False)
                connections[sock] = Connection(sock)
                continue
            connection = connections[key.fileobj]
            try:
                if events & selectors.EVENT_READ:
                    connection.readable()
                if events & selectors.EVENT_WRITE:
                    connection.writable()
                broken = False
            except BlockingIOError:
                broken = False
            except OSError:
                broken = True
            if broken or connection.over():
                update(selector, connection, 0)
                connections.pop(connection.sock).sock.close()


def update(selector, connection, events):
    known = selector.get_map().get(connection.sock)
    if known is None and events:
        selector.register(connection.sock, events)
    elif known is not None and not events:
        selector.unregister(connection.sock)
    elif known is not None and known.events != events:
        selector.modify(connection.sock, events)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "", sys.argv[3] if len(sys.argv) > 3 else "")
