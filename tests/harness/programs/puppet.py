"""A workload that does what it is told: Python statements and expressions, a line of JSON each, answered by a line.

usage: puppet.py PORT. The answer is {"value": …} or {"error": "OSError: …"}. Names that are set stay set. For
connections there is `Duplex(sock)`: the pattern in both directions at once, every byte checked, in threads.
"""

import json
import socket
import sys
import threading

PATTERN = bytes(range(251)) * 600


def piece(offset, length):
    """Of the pattern without end: so many bytes, 150,000 at the most."""
    return PATTERN[offset % 251 : offset % 251 + length]


class Duplex:
    """Sends the pattern until told to end, and checks that the same pattern comes, until it ends.

    With a pause after each piece the processor is left to others: where it is not the stream that is tried.
    """

    def __init__(self, sock, pause_seconds=0):
        self.sock, self.sent, self.got, self.trouble = sock, 0, 0, ""
        self.pause_seconds = pause_seconds
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self.send, self.receive)]
        for thread in self.threads:
            thread.start()

    def send(self):
        try:
            while not self.stop.is_set():
                self.sent += self.sock.send(piece(self.sent, 20000))
                if self.pause_seconds:
                    self.stop.wait(self.pause_seconds)
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.trouble = self.trouble or f"send: {error!r} after {self.sent}"

    def receive(self):
        try:
            while data := self.sock.recv(100000):
                if data != piece(self.got, len(data)):
                    self.trouble = self.trouble or f"wrong bytes at {self.got}"
                self.got += len(data)
        except OSError as error:
            self.trouble = self.trouble or f"receive: {error!r} after {self.got}"

    def end(self):
        """Ends the sending."""
        self.stop.set()
        self.threads[0].join(20)

    def counts(self):
        """What was sent, received and wrong, when the other side has ended as well."""
        self.threads[1].join(20)
        alive = any(thread.is_alive() for thread in self.threads)
        self.sock.close()
        return [self.sent, self.got, "stuck" if alive else self.trouble]


def read_all(sock):
    """Until the end; how many bytes, and whether they were the pattern."""
    got = 0
    right = True
    while data := sock.recv(100000):
        right = right and data == piece(got, len(data))
        got += len(data)
    return [got, right]


def write_all(sock, count):
    """So many bytes of the pattern."""
    sent = 0
    while sent < count:
        sent += sock.send(piece(sent, min(100000, count - sent)))
    return sent


def fill(sock):
    """As much of the pattern as goes in without waiting."""
    sent = 0
    sock.setblocking(False)
    try:
        while True:
            sent += sock.send(piece(sent, 60000))
    except BlockingIOError:
        sock.setblocking(True)
    return sent


def run(line, names):
    try:
        code = json.loads(line)
        try:
            compiled = compile(code, "<told>", "eval")
        except SyntaxError:
            exec(compile(code, "<told>", "exec"), names)
            return {"value": None}
        value = eval(compiled, names)
        try:
            json.dumps(value)
        except TypeError:
            value = repr(value)
        return {"value": value}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def serve(sock, names):
    with sock, sock.makefile("rwb", 0) as lines:
        for line in lines:
            lines.write(json.dumps(run(line, names)).encode() + b"\n")


if __name__ == "__main__":
    names = globals()
    exec("import ctypes, fcntl, os, select, signal, struct, time", names)
    control = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        threading.Thread(target=serve, args=(control.accept()[0], names), daemon=True).start()
