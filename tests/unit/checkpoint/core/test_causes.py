"""CRIU's words in a person's: every log here was CRIU 4.2.1's own, provoked on Linux 6.18."""

from __future__ import annotations

import pytest

from checkpoint.core import causes
from checkpoint.core.errors import Code

NOISE = "(00.000) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n"
END = "(00.009) Error (criu/cr-dump.c:1545): Dump files (pid: 7) failed with -1\n"
END += "(00.009) Error (criu/cr-dump.c:1975): Dumping FAILED.\n"

DUMPS = [
    ("files-reg.c:1790): Can't lookup mount=24 for fd=0 path=/dev/null", Code.FOREIGN_DESCRIPTOR,
     "the process has a descriptor opened outside the pod: /dev/null (fd 0)"),
    ("files-reg.c:1790): Can't lookup mount=24 for fd=-3 path=/", Code.FOREIGN_DESCRIPTOR,
     "the process uses a folder or program from outside the pod: /"),
    ("files-reg.c:1796): Open files on overmounted mounts are not supported yet; mount=3 fd=4 path=/x",
     Code.FOREIGN_DESCRIPTOR, "the process has a file open that a later mount hides: /x (fd 4)"),
    ("sk-inet.c:137): inet: Unsupported proto 262 for socket 9e7bf", Code.UNSUPPORTED_SOCKET,
     "the process has a Multipath TCP socket, which cannot be saved"),
    ("sk-inet.c:137): inet: Unsupported proto 132 for socket 9e7bf", Code.UNSUPPORTED_SOCKET,
     "the process has a socket of protocol 132, which cannot be saved"),
    ("files-reg.c:1031): Can't dump ghost file /tmp/ghost of 3145728 size, increase limit", Code.GHOST_TOO_LARGE,
     "the process has a deleted file open that is too large to carry along: /tmp/ghost (3145728 bytes)"),
    ("files-reg.c:1122): Can't create link remap for /tmp/rm1. Use link-remap option.", Code.DELETED_FILE,
     "the process has a file open under a name that is gone, while another name of it remains: /tmp/rm1"),
    ("sk-unix.c:874): unix: External socket is used. Consider using --ext-unix-sk option.", Code.UNSUPPORTED_SOCKET,
     "the process has a unix socket whose other end is outside the workload"),
    ("sk-unix.c:881): unix: Can't dump half of stream unix connection. name: (null); peer name: (null)",
     Code.UNSUPPORTED_SOCKET, "the process has a unix connection to another one outside the workload"),
    ("sk-unix.c:536): unix: Unix socket 12841046 without peer 12627268", Code.UNSUPPORTED_SOCKET,
     "the process has a unix socket whose other end is outside the workload"),
    ("sockets.c:400): sockets: Can't get socket filter len: Permission denied", Code.UNSUPPORTED_SOCKET,
     "the process has a socket with an eBPF program as its filter (SO_ATTACH_BPF), which cannot be saved"),
    ("pie/parasite.c:588): send_fds failed (-22)", Code.UNSUPPORTED_FILE,
     "the process has a descriptor that cannot be handed on, an io_uring most likely"),
    ("files-ext.c:94): Can't dump file 3 of that type [600] (anon anon_inode:[userfaultfd])", Code.UNSUPPORTED_FILE,
     "the process has a descriptor that cannot be saved: fd 3 (anon anon_inode:[userfaultfd])"),
    ("sockets.c:767): sockets: BUG! Unknown socket collected (family 40)", Code.UNSUPPORTED_SOCKET,
     "the process has a socket of a kind that cannot be saved"),
    ("namespaces.c:460): Can't dump nested uts namespace for 20271", Code.FOREIGN_NAMESPACE,
     "process 20271 lives in a uts namespace of its own"),
    ("cr-dump.c:1681): A session leader of 7(7) is outside of its pid namespace", Code.TERMINAL,
     "process 7 belongs to a session that was begun outside the pod"),
    ("cr-dump.c:100): Task 7 with SysVIPC shmem map @7f00 doesn't live in IPC ns", Code.UNSUPPORTED_FILE,
     "process 7 has attached System V shared memory since the move was prepared"),
    ("cr-dump.c:389): Can't get rlimit 0: Operation not permitted", Code.NO_CAPABILITY,
     "CRIU may not read the limits of another user's process without CAP_SYS_RESOURCE"),
    ("page-xfer.c:263): page-xfer: Unable to spice data: No space left on device", Code.NO_SPACE,
     "there is no space left for the images"),
    ("mem.c:1): Can't allocate: Cannot allocate memory", Code.NO_MEMORY, "there is not enough memory"),
    ("pidfd.c:97): pidfd: pidfd pid 1 is not a part of process tree..", Code.UNSUPPORTED_FILE,
     "the process has a pidfd of process 1, which is outside the workload"),
    ("pidfd.c:77): pidfd: PIDFD_THREAD flag is currently not supported", Code.UNSUPPORTED_FILE,
     "the process has a pidfd of a thread (PIDFD_THREAD), which cannot be saved"),
    ("files-reg.c:1790): Can't lookup mount=16 for fd=-3 path=/anon_hugepage (deleted)", Code.NO_MEMORY,
     "the workload has huge pages (hugetlbfs), and CRIU gets none to know them by"),
    ("shmem.c:800): Can't get shmem into page-pipe: Bad address", Code.NO_MEMORY,
     "the workload has huge pages (hugetlbfs), and CRIU gets none to know them by"),
    ("sk-netlink.c:130): netlink: The netlink socket 0x1ea24b6 is bound to groups but not to portid",
     Code.UNSUPPORTED_SOCKET,
     "the process has a netlink socket that is a member of groups and bound to no number, which cannot be saved"),
    ("sk-queue.c:60): skqueue: Control messages in queue, not supported", Code.CONNECTION_STATE,
     "the process has not read yet what waits with its sender's credentials (SO_PASSCRED) in a unix socket"),
    ("sk-unix.c:510): unix: Non-empty write queue on an in-flight socket 0x1f0b3c5", Code.CONNECTION_STATE,
     "a connection to a unix socket, with bytes in it or ended already, waits to be accepted"),
    ("proc_parse.c:700): Unknown shit 600 (anon_inode:[io_uring])", Code.UNSUPPORTED_FILE,
     "the process has mapped into its memory what cannot be saved: anon_inode:[io_uring]"),
    ("timerfd.c:46): Unknown clock type 9 for 0", Code.UNSUPPORTED_FILE,
     "the process has a timer of clock 9, which cannot be saved"),
    ("cr-dump.c:675): Can't make FS id for 7", Code.UNSUPPORTED_PROCESS,
     "process 7 has its memory, folders or signal handlers in common with another, which cannot be saved"),
    ("sk-netlink.c:77): netlink: The socket has data to read", Code.CONNECTION_STATE,
     "the process has not read yet what a netlink socket has for it"),
]  # fmt: skip

RESTORES = [
    ("cr-restore.c:1237): Can't fork for 20002: File exists", Code.PID_TAKEN, "the PID 20002 is taken in this pod"),
    ("files-reg.c:2353): Can't open file tmp/fg on restore: No such file or directory", Code.FILE_MISSING,
     "the workload's file /tmp/fg is not there"),
    ("files-reg.c:2353): Can't open file tmp/fg on restore: Permission denied", Code.FILE_MISSING,
     "the workload's file /tmp/fg cannot be opened: Permission denied"),
    ("files-reg.c:2175): File tmp/fs has bad size 102 (expect 100)", Code.FILE_CHANGED,
     "the workload's file /tmp/fs is another one here: its size differs"),
    ("files-reg.c:2294): File tmp/fm has bad mode 0100600 (expect 0100644)", Code.FILE_CHANGED,
     "the workload's file /tmp/fm is another one here: its mode differs"),
    ("sk-inet.c:1059): inet: Can't bind inet socket (id 11): Cannot assign requested address", Code.ADDRESS_MISSING,
     "the workload is bound to an address that this pod does not have"),
    ("sk-inet.c:1059): inet: Can't bind inet socket (id 11): Address already in use", Code.ADDRESS_IN_USE,
     "an address and port of the workload is already in use in this pod"),
    ("soccr.c:499): Can't bind inet socket back: Cannot assign requested address", Code.ADDRESS_MISSING,
     "the workload is bound to an address that this pod does not have"),
    ("soccr.c:540): Can't connect inet socket back: Network is unreachable", Code.ADDRESS_MISSING,
     "a connection of the workload cannot be made again here: Network is unreachable"),
    ("pie/restorer.c:2185): Unable to create a thread: -17", Code.PID_TAKEN,
     "the id of one of its threads is taken in this pod"),
    ("file-lock.c:628): Can not set flock!", Code.LOCK_HELD,
     "a file lock of the workload (flock) is held by another process here"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "message"), DUMPS)
def test_a_dumps_failure_is_named(line, code, message):
    found = causes.explain(f"{NOISE}(00.003) Error (criu/{line}\n{END}", restoring=False)
    assert (found.code, found.message) == (code.value, message)


@pytest.mark.parametrize(("line", "code", "message"), RESTORES)
def test_a_restores_failure_is_named(line, code, message):
    log = f"{NOISE}(00.003)  20002: Error (criu/{line}\n"
    log += "(00.004)  20002: Error (criu/files.c:1221): Unable to open fd=3 id=0xb\n"
    found = causes.explain(log + "(00.005) Error (criu/cr-restore.c:2331): Restoring FAILED.\n", restoring=True)
    assert (found.code, found.message) == (code.value, message)


@pytest.mark.parametrize(
    ("why", "code", "message"),
    [
        ("Operation not permitted", Code.TRACED, "process 20019 is being traced by another process"),
        ("No such process", Code.WORKLOAD_GONE, "process 20019 has ended"),
    ],
)
def test_a_warning_is_read_where_no_error_says_it(why, code, message):
    log = f"(00.1) Warn  (compel/src/lib/infect.c:132): Unable to interrupt task: 20019 ({why})\n"
    log += "(00.1) Error (compel/src/lib/infect.c:417): Unable to detach from 20019: No such process\n"
    found = causes.explain(NOISE + log + END, restoring=False)
    assert (found.code, found.message) == (code.value, message)


IO_URING = """\
pie: 20034: Error (criu/pie/parasite.c:588): send_fds failed (-22)
pie: 20034: Close the control socket for writing
Error (criu/parasite-syscall.c:280): Can't retrieve FDs from socket
Error (compel/src/lib/infect-rpc.c:44): Message reply from daemon is trimmed (12/0)
Error (criu/cr-dump.c:1545): Dump files (pid: 20034) failed with -1
Error (criu/cr-dump.c:1975): Dumping FAILED.
"""
FULL = """\
Error (criu/page-xfer.c:263): page-xfer: Unable to spice data: No space left on device
Error (criu/bfd.c:131): bfd: Error flushing image: No space left on device
Error (criu/mem.c:718): Can't dump page with parasite
Error (criu/cr-dump.c:1975): Dumping FAILED.
"""
OTHER_NAMESPACE = """\
Error (criu/files-reg.c:1790): Can't lookup mount=44 for fd=-3 path=/usr/bin/python3.11
Error (criu/cr-dump.c:1440): Collect mappings (pid: 20063) failed with -1
Error (criu/cr-dump.c:1975): Dumping FAILED.
"""
ONE_OF_SEVEN = """\
 20049: Error (criu/files-reg.c:2353): Can't open file tmp/f3 on restore: No such file or directory
 20049: Error (criu/files-reg.c:2267): Can't open file tmp/f3: No such file or directory
 20049: Error (criu/files.c:1221): Unable to open fd=3 id=0x16
 20045: Error (criu/cr-restore.c:1265): 20049 exited, status=1
 20045: Error (criu/files.c:1104): Can't sent fd 1 to 20049
 20045: Error (criu/files.c:1221): Unable to open fd=1 id=0xa
Error (criu/cr-restore.c:1265): 20045 exited, status=1
Error (criu/cr-restore.c:2331): Restoring FAILED.
"""


@pytest.mark.parametrize(
    ("log", "first"),
    [
        (IO_URING, "send_fds failed (-22)"),
        (FULL, "page-xfer: Unable to spice data: No space left on device"),
        (OTHER_NAMESPACE, "Can't lookup mount=44 for fd=-3 path=/usr/bin/python3.11"),
        (ONE_OF_SEVEN, "Can't open file tmp/f3 on restore: No such file or directory"),
    ],
    ids=["io_uring", "full", "other namespace", "one of seven processes"],
)
def test_without_a_rule_the_first_error_is_quoted_not_what_follows_from_it(monkeypatch, log, first):
    monkeypatch.setattr(causes, "_RULES", ())
    assert causes.explain(NOISE + log, restoring=False).message == f"the dump failed. CRIU said: {first}"


def test_a_process_that_was_killed_is_quoted_where_nothing_else_is_said():
    killed = "(00.1) Error (criu/cr-restore.c:1262): 20040 killed by signal 9: Killed\n"
    log = NOISE + killed + "(00.2) Error (criu/cr-restore.c:2331): Restoring FAILED.\n"
    said = "the restore failed. CRIU said: "
    assert causes.explain(log, restoring=True).message == said + "20040 killed by signal 9: Killed"
    log = NOISE + killed + "(00.2) Error (criu/mem.c:9): Something odd\n"
    assert causes.explain(log, restoring=True).message == said + "Something odd"


def test_warnings_and_errors_are_quoted_without_what_is_harmless():
    log = NOISE + "(00.1) Warn  (criu/a.c:1): First\n(00.1) Info\n pie: 7: Error (criu/b.c:2): Second\n" + END
    assert causes.quote(log) == [
        "(00.1) Warn  (criu/a.c:1): First", "pie: 7: Error (criu/b.c:2): Second", *END.splitlines(),
    ]  # fmt: skip


def test_no_more_is_quoted_than_was_said():
    lines = causes.quote(f"Error (criu/a.c:1): {'x' * 5000}\n" * 500)
    assert len(lines) == causes.MOST_LINES
    assert {len(line) for line in lines} == {causes.MOST_CHARACTERS}
    assert len(causes.explain(f"Error (criu/a.c:1): {'x' * 5000}\n", restoring=False).message) < 400
    assert len(causes.explain(f"Error (criu/a.c:1): {'x' * 5000}: No space left on device", restoring=False).hint) < 500


def test_a_name_cannot_speak_to_the_terminal():
    log = "Error (criu/a.c:1): Can't open file tmp/\x1b[2J\x9b\x7f on restore: No such file or directory\n"
    assert causes.quote(log)[0].endswith(r"tmp/\x1b[2J\x9b\x7f on restore: No such file or directory")
    assert causes.explain(log, restoring=True).message == r"the workload's file /tmp/\x1b[2J\x9b\x7f is not there"


def test_what_no_rule_knows_is_quoted():
    log = NOISE + "(00.1) Error (criu/mem.c:9): Something odd\n" + END
    found = causes.explain(log, restoring=False)
    assert (found.code, found.message) == ("criu-failed", "the dump failed. CRIU said: Something odd")


def test_an_empty_log_says_so():
    found = causes.explain(NOISE, restoring=True)
    assert found.message == "the restore failed. CRIU said: nothing that would explain it"


def test_the_machines_own_troubles_keep_criu_s_words():
    found = causes.explain("(0) Error (criu/a.c:1): x: No space left on device\n", restoring=False)
    assert found.hint.startswith("Free space where images are kept")
    assert found.hint.endswith(" CRIU said: x: No space left on device")
