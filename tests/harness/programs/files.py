"""Writes all kinds of files below one path, and deletes another; each line of its log says whether that is so still.

Standard library only. It is the workload of tests/system/test_files.py.
"""

import os
import sys
import time

top = sys.argv[1]
os.makedirs(top)
os.chdir(top)
log = open("log", "ab", buffering=0)  # noqa: SIM115 - open all the time
gone = open("gone", "w+b", buffering=0)  # noqa: SIM115
gone.write(b"nobody sees me" * 1000)
os.unlink("gone")
with open("sparse", "wb") as sparse:
    sparse.truncate(64 << 20)
    sparse.seek(32 << 20)
    sparse.write(b"in the middle")
with open("name-1", "w") as named:
    named.write("one file with two names")
os.link("name-1", "name-2")
os.symlink("name-1", "link")
os.mkfifo("fifo")
with open("private", "w") as private:
    private.write("mine")
os.chmod("private", 0o600)
os.chown("private", 1234, 5678)
os.setxattr("private", "trusted.midstream", b"kept")
with open(f"{top}-config", "w") as config:
    config.write("new\n")
os.unlink(sys.argv[2])


def complaint() -> str:
    gone.seek(0)
    if gone.read() != b"nobody sees me" * 1000:
        return "the deleted file is another one"
    if os.path.exists("gone") or os.path.exists(sys.argv[2]):
        return "what was deleted is there"
    with open("sparse", "rb") as sparse:
        sparse.seek(32 << 20)
        if sparse.read(13) != b"in the middle":
            return "the sparse file is another one"
    if not os.path.samefile("name-1", "name-2") or os.readlink("link") != "name-1":
        return "the names are others"
    if not os.path.samestat(os.fstat(log.fileno()), os.stat("log")):
        return "the log is another file than the one that is open"
    return "all is well"


number = 0
while True:
    log.write(f"{number} {complaint()}\n".encode())
    number += 1
    time.sleep(0.02)
