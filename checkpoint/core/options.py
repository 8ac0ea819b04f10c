"""What CRIU is asked to do, as data: the fields of rpc.proto's criu_opts by name.

Kept apart from the client so that the reasons stand beside the choices and a test can read them.
"""

from __future__ import annotations

NETWORK_LOCK_SKIP = 3
"""criu_network_lock_method.SKIP: what comes after the snapshot stays in the adopted sockets and is counted."""

CG_MODE_IGNORE = 0
"""criu_cg_mode.IGNORE: a pod's cgroup is the pod's, not the workload's to carry."""

LOG_LEVEL = 2
"""Warnings and errors. 4 costs 1 to 2 ms of the freeze (measured), and a failure's cause is in the errors."""

DUMP_LOG = "dump.log"
RESTORE_LOG = "restore.log"

PAGE_SERVER_FD = 4
"""Where the CRIU of a lazy dump finds the other end of its page server's connection."""

LAZY_CONFIG = f"ps-socket {PAGE_SERVER_FD}\n"
"""CRIU's page server takes a connected socket from a configuration file alone: with lazy pages it ignores the request's
`ps.fd` (criu: cr-service.c, setup_opts_from_req), and would listen on every address of the pod."""

Option = int | bool | str


def _common(images: str, work_fd: int) -> dict[str, Option]:
    return {
        "images_dir_fd": -1,  # required by the protocol; -1 means: use images_dir
        "images_dir": images,
        "work_dir_fd": work_fd,  # logs and statistics beside the images, not among them
        "leave_stopped": True,
        "tcp_established": True,
        "network_lock": NETWORK_LOCK_SKIP,
        "file_locks": True,
        "manage_cgroups_mode": CG_MODE_IGNORE,
        "ext_unix_sk": True,  # a datagram socket to a logger outside must not stop a move
        "log_level": LOG_LEVEL,
    }


def dump(pid: int, images: str, work_fd: int, ghost_limit_bytes: int) -> dict[str, Option]:
    """Options to dump the tree of `pid` into the folder `images`; `work_fd` is our descriptor of the log's folder."""
    # The proxy accepts what waits in an adopted listener's queue, so CRIU need not refuse it.
    return _common(images, work_fd) | {
        "pid": pid, "tcp_skip_in_flight": True, "ghost_limit": ghost_limit_bytes, "log_file": DUMP_LOG,
    }  # fmt: skip


def lazily(config_file: str = "") -> dict[str, Option]:
    """What a dump says besides that leaves the private memory where it is, and a restore that leaves it out.

    `config_file` holds LAZY_CONFIG; a restore needs none.
    """
    wanted: dict[str, Option] = {"lazy_pages": True}
    if config_file:
        wanted["config_file"] = config_file
    return wanted


def restore(images: str, work_fd: int) -> dict[str, Option]:
    """Options to restore from the folder `images`, stopped."""
    # rst_sibling stays off: the root becomes a child of CRIU, and of PID 1 when CRIU ends, never of the agent.
    return _common(images, work_fd) | {"log_file": RESTORE_LOG}
