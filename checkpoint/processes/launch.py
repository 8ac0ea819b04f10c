"""A program of its own: start one workload as a child of the pod's PID 1, with clean descriptors, and say how it went.

    python -I -S launch.py <log> <pid base> <directory> <environment as JSON> <argv as JSON>

It prints one JSON line: {"pid": n} or {"error": "words"}. A fork in the agent itself, which has threads and an event
loop, would be a fork of both; here is neither. Standard library only, and few modules: it is started for each workload.
"""

import json
import os
import signal
import sys

LAST_PID = "/proc/sys/kernel/ns_last_pid"


def main(log: str, pid_base: int, directory: str, environment: dict[str, str], argv: list[str]) -> None:
    """Fork; the child becomes the workload, the parent reports and ends, and PID 1 inherits the child."""
    read_end, write_end = os.pipe()
    if pid_base:
        _raise_last_pid(pid_base)
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _become(write_end, log, directory, environment, argv)
    os.close(write_end)
    # End of file without a word: the exec has happened and closed the other end.
    with os.fdopen(read_end, "r") as pipe:
        error = pipe.read()
    print(json.dumps({"error": error} if error else {"pid": pid}), flush=True)


def _raise_last_pid(pid_base: int) -> None:
    """Let the workload's PIDs come from the pod's own block, so that they are free wherever it moves."""
    with open(LAST_PID, "r+") as counter:
        if int(counter.read()) < pid_base:
            counter.seek(0)
            counter.write(str(pid_base))


def _become(report: int, log: str, directory: str, environment: dict[str, str], argv: list[str]) -> None:
    """Turn this process into the workload; does not return."""
    what = "start a session"
    try:
        os.setsid()
        what = f"open {log}"
        # Opened here, in the pod's own mount namespace: CRIU must find them there.
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        report = _only_stdio_and(report)
        what = f"enter {directory}"
        os.chdir(directory)
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP) and not 32 <= number <= 33:  # 32, 33: glibc's own
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        what = f"run {argv[0]}"
        os.execvpe(argv[0], argv, environment)
    except FileNotFoundError as error:
        words = f"command not found: {argv[0]}" if what.startswith("run ") else f"cannot {what}: {error.strerror}"
        os.write(report, words.encode())
    except (OSError, ValueError) as error:
        os.write(report, f"cannot {what}: {getattr(error, 'strerror', None) or error}".encode())
    os._exit(127)


def _only_stdio_and(report: int) -> int:
    """Close every descriptor but 0, 1, 2 and the report's, which becomes 3 and closes itself at the exec."""
    os.dup2(report, 3, inheritable=False)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    return 3


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]), json.loads(sys.argv[5]))
