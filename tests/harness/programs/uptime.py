"""python -I -S uptime.py FD LOCK: a pod's first process (`controller.lab.init`), on a machine that was started ten days
before this one, as its clocks say (time_namespaces(7))."""

import ctypes
import runpy
from pathlib import Path

CLONE_NEWTIME = 0x80
TEN_DAYS = 864_000
INIT = Path(__file__).parents[3] / "controller" / "lab" / "init.py"

if __name__ == "__main__":
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWTIME):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/timens_offsets").write_text(f"monotonic {TEN_DAYS} 0\nboottime {TEN_DAYS} 0\n")
    runpy.run_path(str(INIT), run_name="__main__")
