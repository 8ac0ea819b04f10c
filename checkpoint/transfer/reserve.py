"""Memory for images that are to come: taken before the freeze, and theirs as they arrive.

It is in a file without a name, on the file system that the images are written to: nobody sees that one, and with its
agent it is gone. So images need none that this machine has not got: a hypervisor that takes back what is free gives it
again by the page, 5 to 14 us each, as much as TLS takes for it. They get it in two ways:

- The first large image **becomes that file**: what there is of it is copied, and its name goes over. From then on bytes
  are written over zeros that lie in memory already: nothing is taken, cleared or given back, which is half of what the
  kernel has to do the other way.
- For all others the file **shrinks** from its end, and what it gives back the kernel gives to who wants memory next:
  to them. Whichever files they are in, and of whatever size, does not matter.

It has to be written: what fallocate(2) takes is given by the hypervisor, and cleared, when it is first written.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from checkpoint.api import Reserved, ReserveRoom
from checkpoint.core.errors import AgentError, Code
from checkpoint.kernel import Kernel
from checkpoint.memory.urgency import BACK
from checkpoint.processes import capacity

STEP_BYTES = 2 << 20
"""Taken at a time: a large page, where tmpfs has such, for the images will be in large ones too. What was taken by the
256 KiB came from what the kernel had left over in small pieces, and the images needed new memory none the less."""

GROUP_BYTES = 2 << 20
"""Given back at a time."""

LARGE_PART = 64
"""An image is large when it is as long as this part of what was taken: so much is copied, and a small process that
comes first does not take the place of a large one."""

SPARE_BYTES = 2 << 20
"""So much of the file system is left to others: an agent that cannot write a small file cannot move anything."""

LOOK_BYTES = 8 << 20
"""After so much it is looked what others have left."""

PATIENCE_SECONDS = 60.0
"""No more is taken after that: 15 GiB of a slow hypervisor, 100 of a machine. The rest is had as it is needed."""


class Reserve:
    """One migration's: `begin`, `spend` as its images arrive, `close` at any time. None is as good as an empty one."""

    def __init__(self, folder: Path, kernel: Kernel, room_bytes: Callable[[], int] = capacity.room_bytes) -> None:
        """On the file system of this folder; `room_bytes` says how much memory there is at the moment."""
        self._folder, self._kernel, self._room_bytes = folder, kernel, room_bytes
        self._file: IO[bytes] | None = None
        self._size = self._spent = self._taken = 0
        self._can_have_name = True
        self._image: str | None = None
        """The image that it has become."""
        self._image_size = 0
        self._seconds = 0.0
        self._problem: AgentError | None = None
        self._over = threading.Event()
        self._taking: threading.Thread | None = None
        self._closing = threading.Lock()

    def begin(self, wanted: ReserveRoom) -> None:
        """Take it, in a thread that goes behind others. Nothing, where that was begun before, or where files are not in
        memory. Raises OSError."""
        if self._file is None and not self._over.is_set() and self._kernel.is_tmpfs(str(self._folder)):
            fd = os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            self._file = os.fdopen(fd, "r+b", buffering=0)
            self._taking = threading.Thread(target=self._take, args=(wanted,), name="reserve room", daemon=True)
            self._taking.start()

    def state(self) -> Reserved:
        """How far that is. Raises AgentError NO_SPACE where the file system has not so much: then it has nothing."""
        if self._problem is not None:
            raise self._problem
        coming = self._taking is not None and self._taking.is_alive()
        return Reserved("coming" if coming else "there", self._taken, self._seconds)

    def room(self, image: Path, fd: int, end: int, size: int) -> int:
        """Room for the `size` bytes up to `end` of an image, which is open there; the descriptor to write them to: that
        one, or ours. For one thread at a time, which writes them before the next one asks. Raises OSError."""
        self._stop()
        if self._can_become(fd, end):
            self._become(image, fd)
        if self._file is None or not self.has_become(image):
            self._shrink(size)
            return fd
        self._image_size = max(self._image_size, end)
        self._size = max(self._size, end)
        return self._file.fileno()

    def has_become(self, image: Path) -> bool:
        """Whether it is this image; it is too long then until `settle`."""
        return image.name == self._image

    def emptied(self) -> None:
        """No image is there any more. The next ones get the memory as it shrinks: a file that has lost its name gets no
        other (K: namei.c, vfs_link)."""
        self._stop()
        self._image, self._image_size = None, 0
        self._spent = self._taken - self._size

    def settle(self) -> None:
        """All images are there: the one that it has become ends where it should. Raises OSError."""
        with self._closing:
            if self._file is not None and self._image is not None:
                self._size = self._image_size
                self._file.truncate(self._size)

    def close(self) -> None:
        """Give back what is left. Blocks for as long as that takes."""
        self._stop()
        with self._closing:
            if self._file is not None:
                self._file.close()
                self._file, self._size = None, 0

    def _can_become(self, fd: int, end: int) -> bool:
        """Whether an image is large by now, and the first such. Not one that does not fit: it may be all holes."""
        found = self._can_have_name and self._taken <= end * LARGE_PART and end <= self._size
        return found and os.fstat(fd).st_size <= self._size

    def _become(self, image: Path, fd: int) -> None:
        assert self._file is not None
        ours, size, at = self._file.fileno(), os.fstat(fd).st_size, 0
        while at < size and (copied := os.copy_file_range(fd, ours, size - at, at, at)):
            at += copied
        image.unlink()
        # By way of /proc, for it has no name (open(2), O_TMPFILE); Python follows that only where it is given a folder.
        os.link(f"/proc/self/fd/{ours}", image, src_dir_fd=ours, follow_symlinks=True)
        self._can_have_name = False
        self._image, self._image_size = image.name, size

    def _shrink(self, size: int) -> None:
        """By as much as is about to be written, or a little more."""
        self._spent += size
        left = max(self._image_size, self._taken - -(-self._spent // GROUP_BYTES) * GROUP_BYTES)
        if self._file is not None and left < self._size:
            self._size = left
            self._file.truncate(left)

    def _stop(self) -> None:
        """Whoever comes second waits as well: nobody writes to the file from then on."""
        self._over.set()
        if self._taking is not None:
            self._taking.join()

    def _take(self, wanted: ReserveRoom) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, BACK)  # of this thread alone
        began = time.monotonic()
        try:
            while not self._over.is_set() and self._size < wanted.size_bytes and self._may(wanted):
                self._write(min(wanted.size_bytes - self._size, LOOK_BYTES))
                self._seconds = time.monotonic() - began
                if self._seconds > PATIENCE_SECONDS:
                    return
        except OSError as error:
            self._fail(error, wanted)

    def _may(self, wanted: ReserveRoom) -> bool:
        """Whether there is memory for more of it. Raises OSError where the file system is full."""
        found = os.statvfs(self._folder)
        if found.f_bavail * found.f_frsize < min(wanted.size_bytes - self._size, LOOK_BYTES) + SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._room_bytes() - LOOK_BYTES >= wanted.leave_bytes

    def _write(self, size: int) -> None:
        assert self._file is not None
        end = self._size + size
        while self._size < end and not self._over.is_set():
            self._size += os.pwrite(self._file.fileno(), _ZEROS[: end - self._size], self._size)
            self._taken = self._size

    def _fail(self, error: OSError, wanted: ReserveRoom) -> None:
        """Others shall have what it could have at once."""
        assert self._file is not None
        words = f"there is no room for the images at the destination: {self._size} of {wanted.size_bytes} bytes"
        self._file.truncate(0)
        self._size = 0
        code = Code.NO_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else Code.INTERNAL
        self._problem = AgentError(code, f"{words}: {error.strerror}")


_ZEROS = memoryview(bytes(STEP_BYTES))
