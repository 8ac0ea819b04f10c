"""A workload: a shell on a terminal of its own, whose keyboard and screen are a connection. usage: terminal.py PORT."""

import os
import pty
import selectors
import socket
import sys


def main(port):
    listener = socket.create_server(("", port))
    pid, master = pty.fork()
    if pid == 0:
        listener.close()
        os.execv("/bin/sh", ["sh", "-i"])
    sock = listener.accept()[0]
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        selector.register(master, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sock:
                    os.write(master, sock.recv(1000))
                else:
                    sock.sendall(os.read(master, 1000))


if __name__ == "__main__":
    main(int(sys.argv[1]))
