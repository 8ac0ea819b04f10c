"""Has 256 MiB, forks when FOLDER/go is there, and its child, in a session of its own, looks through all of them: what
it has seen is in FOLDER/seen."""

import os
import sys
import time
from pathlib import Path

FOLDER = Path(sys.argv[1])
SIZE = 256 << 20

kept = bytearray(b"7" * SIZE)
print("up", flush=True)
while not (FOLDER / "go").exists():
    time.sleep(0.05)
if os.fork() == 0:
    os.setsid()
    (FOLDER / "seen").write_text("nothing")
    wrong = next((at for at in range(0, SIZE, 4096) if kept[at] != ord("7")), None)
    (FOLDER / "seen").write_text("all of it" if wrong is None else f"{kept[wrong]} at {wrong}")
time.sleep(1000)
