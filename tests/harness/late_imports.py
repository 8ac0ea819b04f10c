"""Runs the proxy and reports every module that it imports after it has given root up.

The interpreter's folders may be closed to the proxy's user, so such an import could fail where this one succeeds.
"""

from __future__ import annotations

import os
import sys

from proxy.main import main


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "import" and os.geteuid() != 0:
        print(f"ERROR late import of {arguments[0]}", file=sys.stderr, flush=True)


sys.addaudithook(_watch)
sys.exit(main())
