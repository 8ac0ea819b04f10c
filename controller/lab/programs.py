"""The programs that a pod's first process runs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from controller.lab.errors import NoCriu
from controller.lab.pod import PROXY_UID, Pod

CHECKOUT = Path(__file__).resolve().parents[2]

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/",
    # aiohttp's import loads the machine's authorities, twice: 70 ms of each start, and nobody here asks the web.
    "SSL_CERT_FILE": os.devnull,
}
"""What the sidecars get, and no more: a workload's environment is not whoever created the pod's."""


NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}
"""For sidecars with a root of the pod's own: what they would write there is no workload's."""


def environment(pod: Pod) -> dict[str, str]:
    """What the pod's sidecars get."""
    return ENVIRONMENT | NO_BYTECODE if pod.own_root else ENVIRONMENT


def criu() -> Path:
    """MIDSTREAM_CRIU, or the CRIU that the set-up chose; else the machine's own.

    Too old a one is told by `midstream check` and by the preflight. Raises NoCriu when there is none.
    """
    found = _criu()
    if not os.access(found, os.X_OK):
        raise NoCriu(f"there is no CRIU at {found}")
    return found


def _criu() -> Path:
    if named := os.environ.get("MIDSTREAM_CRIU"):
        return Path(named)
    chosen = CHECKOUT / ".criu" / "criu"
    own = shutil.which("criu", path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin")
    return Path(own) if own and not chosen.exists() else chosen


def root(pod: Pod) -> dict[str, Any] | None:
    """What `init` is told of the pod's own root; None when it has the machine's."""
    if not pod.own_root:
        return None
    return {"folder": str(pod.root_folder), "shared": [pod.home, *pod.shared], "code": str(CHECKOUT)}


def sidecars(pod: Pod) -> list[dict[str, Any]]:
    """The pod's two sidecars as `init.Sidecar` takes them."""
    if not pod.sidecars:
        return []
    proxy = ["proxy.main", "--directory", str(pod.proxy_socket.parent), "--uid", str(PROXY_UID)]
    proxy += ["--tls", str(pod.tls_folder)] if pod.tls_folder else ["--cleartext-links"]
    agent = ["checkpoint.main", "--directory", pod.directory, "--adopt", str(pod.adopt_socket)]
    agent += ["--criu", str(criu()), "--images", pod.images]
    agent += ["--layer", str(pod.layer)] if pod.own_root else []
    return [
        {"name": name, "argv": [sys.executable, "-m", *argv], "log": str(pod.log(name))}
        for name, argv in (("proxy", proxy), ("agent", agent))
    ]
