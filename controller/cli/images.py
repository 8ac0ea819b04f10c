"""`midstream checkpoint`, `restore` and `images`: commands that the command line takes in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from controller.archive import DEFAULT, key_source
from controller.cli import interrupt
from controller.cli.options import DURATION, HOLD
from controller.core.hold import DEFAULT_SECONDS

_Function = TypeVar("_Function", bound=Callable[..., Any])


def keyed(function: _Function) -> _Function:
    file = click.option(
        "--key-file", type=click.Path(path_type=Path), envvar="MIDSTREAM_KEY_FILE", help="The key-encryption key."
    )
    command = click.option("--key-command", envvar="MIDSTREAM_KEY_COMMAND", help="A program that prints it.")
    return file(command(function))


def archive_option(*names: str) -> Callable[[_Function], _Function]:
    return click.option(
        *names,
        "archive",
        default=DEFAULT,
        envvar="MIDSTREAM_ARCHIVE",
        show_default=True,
        help="A folder, or s3://BUCKET/PREFIX with AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, … in the environment.",
    )


@click.command()
@click.argument("workload")
@archive_option("--to")
@click.option("--pod", default=None, help="The pod it is in, if its name is in several.")
@keyed
@click.option("--ttl", type=DURATION, default=None, help="How long the image is kept, e.g. 7d (default: for ever).")
@click.option(
    "--max-hold",
    type=HOLD,
    default=f"{DEFAULT_SECONDS:g}s",
    show_default=True,
    help="The longest time it may stand still.",
)
@click.option("--deadline", type=DURATION, default="30m", show_default=True, help="For the upload.")
@click.option("--compression", type=click.Choice(["auto", "on", "off"]), default="auto", show_default=True)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def checkpoint(
    home: Path, workload: str, archive: str, pod: str | None, key_file: Path | None, key_command: str | None,
    ttl: float | None, max_hold: float, deadline: float, compression: str, output: str,
) -> None:  # fmt: skip
    """Stores a checkpoint of a workload, which runs on. The image is its whole memory: it is sealed with a key.

    \b
    Example:
      midstream images key /root/midstream.key
      midstream checkpoint redis --key-file /root/midstream.key --ttl 7d
    """
    from controller.commands import images as library

    key = key_source(key_file, key_command)
    request = library.CheckpointRequest(workload, pod, archive, key, ttl or 0.0, max_hold, deadline, compression)
    interrupt.run(library.checkpoint(home, request, as_json=output == "json"))


@click.command(short_help="Starts copies of a stored checkpoint.")
@click.argument("image")
@click.option("--to", "pod", required=True, metavar="POD", help="The pod of the first copy.")
@click.option("--name", required=True, help="The copies' name.")
@click.option(
    "--copies", default=1, show_default=True, type=click.IntRange(1, 100), help="One a pod: POD, POD-2, POD-3, …"
)
@archive_option("--archive", "-a")
@keyed
@click.option("--wait", type=DURATION, default=None, help="How long to wait for an image that is still being stored.")
@click.option("--deadline", type=DURATION, default="30m", show_default=True, help="For the download.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def restore(
    home: Path, image: str, pod: str, name: str, copies: int, archive: str, key_file: Path | None,
    key_command: str | None, wait: float | None, deadline: float, output: str,
) -> None:  # fmt: skip
    """Starts copies of a stored checkpoint, each in a pod of its own: POD, which is there, and POD-2, POD-3, …, which
    are made like it where they are not.

    Connections that the image inherited are closed in the copy, and its listening sockets listen at its pod's address.

    \b
    Example: midstream restore redis-20260131T120000Z-1f2e3d4c --to b --name redis-copy --copies 3
    """
    from controller.commands import images as library

    key = key_source(key_file, key_command)
    request = library.RestoreRequest(image, pod, name, copies, archive, key, wait or 0.0, deadline)
    interrupt.run(library.restore(home, request, as_json=output == "json"))


@click.group()
def images() -> None:
    """Stored checkpoints."""


@images.command("list")
@archive_option("--archive", "-a")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def images_list(archive: str, output: str) -> None:
    """Lists the images of an archive; no key is needed."""
    from controller.commands import images as library

    interrupt.run(library.list_images(archive, as_json=output == "json"))


@images.command("show", short_help="Prints an image's manifest, once it is verified.")
@click.argument("image")
@archive_option("--archive", "-a")
@keyed
def images_show(image: str, archive: str, key_file: Path | None, key_command: str | None) -> None:
    """Prints an image's manifest (docs/images.md), after holding the archive's objects against it."""
    from controller.commands import images as library

    interrupt.run(library.show_image(archive, key_source(key_file, key_command), image))


@images.command("delete")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
@archive_option("--archive", "-a")
@click.option("--force", is_flag=True, help="Even one that somebody writes or reads.")
def images_delete(names: tuple[str, ...], archive: str, force: bool) -> None:
    """Deletes images."""
    from controller.commands import images as library

    interrupt.run(library.delete_images(archive, names, force=force))


@images.command("gc", short_help="Deletes the images that are past their time.")
@archive_option("--archive", "-a")
@click.option("--dry-run", is_flag=True, help="Only say which.")
def images_gc(archive: str, dry_run: bool) -> None:
    """Deletes the images that are past their time, and the remains of those that were never completed.

    Never one that somebody writes or reads.
    """
    from controller.commands import images as library

    interrupt.run(library.collect_images(archive, dry_run=dry_run))


@images.command("key")
@click.argument("file", type=click.Path(path_type=Path))
def images_key(file: Path) -> None:
    """Makes a key file that images can be sealed with. Keep it safe, and apart from the archive."""
    from controller.commands import images as library

    interrupt.run(library.make_key(file))
