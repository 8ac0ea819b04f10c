"""A workload: forks and execs all the time, keeps a few zombies, and answers each line with how often it did.

usage: forker.py PORT. The answer is "<programs run> <programs that failed>".
"""

import os
import socket
import subprocess
import sys
import threading

run = failed = 0


def spawn():
    """subprocess uses vfork(2): the parent stands still in the kernel until the child has called exec."""
    global run, failed
    while True:
        done = subprocess.run(["/bin/true"], check=False)
        run += 1
        failed += done.returncode != 0


def fork_and_leave_zombies():
    while True:
        pids = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                os._exit(7)
            pids.append(pid)
        subprocess.run(["/bin/sleep", "0.005"], check=False)
        for pid in pids:
            os.waitpid(pid, 0)


def serve(sock):
    with sock, sock.makefile("rwb", 0) as lines:
        for _ in lines:
            lines.write(b"%d %d\n" % (run, failed))


if __name__ == "__main__":
    listener = socket.create_server(("", int(sys.argv[1])))
    for work in (spawn, fork_and_leave_zombies):
        threading.Thread(target=work, daemon=True).start()
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
