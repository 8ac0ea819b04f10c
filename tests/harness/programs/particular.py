"""A process with all the attributes that one can have and its neighbours have not; a second thread has its own.

usage: particular.py PORT. Each line is answered by one of JSON: the attributes, as the kernel has them.
Standard library only.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_TIMERSLACK, PR_GET_TIMERSLACK, PR_SET_NO_NEW_PRIVS = 1, 24, 29, 30, 38
PR_SET_NAME, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, CAP_SYS_TIME = 15, 22, 2, 25
IOPRIO_SET, IOPRIO_GET, REBOOT = {"x86_64": (251, 252, 169), "aarch64": (30, 31, 142)}[platform.machine()]
IDLE, BEST_EFFORT = 3 << 13, 2 << 13
FAIL_WITH_EPERM, ALLOW = 0x50001, 0x7FFF0000  # linux/seccomp.h
STATUS = ("Name", "Umask", "Seccomp", "NoNewPrivs", "CapBnd", "SigBlk", "SigIgn", "SigCgt", "SigPnd", "Cpus_allowed")
libc = ctypes.CDLL(None, use_errno=True)


def prctl(*arguments):
    if libc.prctl(*arguments, *[0] * (5 - len(arguments))):
        raise OSError(ctypes.get_errno(), f"prctl {arguments}")


def refuse_to_reboot():
    """A seccomp(2) filter: reboot(2) fails, everything else is allowed."""
    load, compare, give = 0x20, 0x15, 0x06  # linux/bpf_common.h
    steps = ((load, 0, 0, 0), (compare, 0, 1, REBOOT), (give, 0, 0, FAIL_WITH_EPERM), (give, 0, 0, ALLOW))
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    whole = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(program)))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(whole))


def become_particular():
    os.umask(0o137)
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, 600))
    os.sched_setaffinity(0, {0})
    libc.syscall(IOPRIO_SET, 1, 0, BEST_EFFORT | 7)
    Path("/proc/self/oom_score_adj").write_text("300")
    Path("/proc/self/coredump_filter").write_text("0x7f")
    prctl(PR_SET_NAME, b"particular")
    prctl(PR_SET_TIMERSLACK, 123_456)
    prctl(PR_CAPBSET_DROP, CAP_SYS_TIME)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)
    signal.setitimer(signal.ITIMER_VIRTUAL, 100_000)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    refuse_to_reboot()


def of_this_thread():
    tid = threading.get_native_id()
    status = Path(f"/proc/self/task/{tid}/status").read_text().splitlines()
    said = dict(line.split(":\t", 1) for line in status if "\t" in line)
    return {
        **{name: said[name] for name in STATUS},
        "affinity": sorted(os.sched_getaffinity(0)),
        "I/O priority": libc.syscall(IOPRIO_GET, 1, 0),
        "timer slack": libc.prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0),
        "nice": os.getpriority(os.PRIO_PROCESS, tid),
    }


def of_the_process():
    return {
        "limits": Path("/proc/self/limits").read_text(),
        "oom": Path("/proc/self/oom_score_adj").read_text(),
        "core": Path("/proc/self/coredump_filter").read_text(),
        "session": [os.getsid(0), os.getpgid(0), str(Path.cwd()), sys.argv],
        "timer": signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 90_000,
        "reboot": [libc.reboot(0), ctypes.get_errno()],
    }


def second(asked, answers):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(1))})
    libc.syscall(IOPRIO_SET, 1, 0, IDLE)
    while asked.acquire():
        answers.append(of_this_thread())
        answered.release()


asked, answered, answers = threading.Semaphore(0), threading.Semaphore(0), []
become_particular()
threading.Thread(target=second, args=(asked, answers), daemon=True).start()
server = socket.create_server(("", int(sys.argv[1])))
while True:
    sock, _ = server.accept()
    with sock, sock.makefile("rw") as lines:
        for _ in lines:
            asked.release()
            answered.acquire()
            found = {"first": of_this_thread(), "second": answers.pop(), "process": of_the_process()}
            lines.write(json.dumps(found) + "\n")
            lines.flush()
