"""The command line about images: what it asks for, and what it says when it gets no key."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from controller.archive import DEFAULT
from controller.cli.main import main
from controller.commands import images


@pytest.fixture
def asked(monkeypatch):
    """Every request that would have been carried out."""
    found = []

    def record(name):
        async def carry_out(*arguments, **options):
            found.append((name, arguments, options))

        return carry_out

    for name in ("checkpoint", "restore", "list_images", "show_image", "delete_images", "collect_images", "make_key"):
        monkeypatch.setattr(images, name, record(name))
    for name in ("MIDSTREAM_KEY_FILE", "MIDSTREAM_KEY_COMMAND", "MIDSTREAM_ARCHIVE"):
        monkeypatch.delenv(name, raising=False)
    return found


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_checkpoint(asked):
    run("checkpoint", "redis", "--to", "s3://b/p", "--key-file", "/k", "--ttl", "7d", "--deadline", "1m")
    ((_, (_, request), options),) = asked
    assert (request.workload, request.archive, request.key.file) == ("redis", "s3://b/p", "/k")
    assert (request.ttl_seconds, request.deadline_seconds, request.max_hold_seconds) == (7 * 86400, 60, 10)
    assert options == {"as_json": False}


def test_a_restore(asked):
    run("restore", "i", "--to", "b", "--name", "copy", "--copies", "3", "--key-command", "x y", "-o", "json")
    ((_, (_, request), options),) = asked
    assert (request.image, request.pod, request.name, request.copies) == ("i", "b", "copy", 3)
    assert (request.archive, request.key.command, request.wait_seconds) == (DEFAULT, "x y", 0)
    assert options == {"as_json": True}


def test_the_archives_own_affairs(asked):
    run("images", "list", "-a", "/x")
    run("images", "show", "i", "--key-file", "/k")
    run("images", "delete", "i", "j", "--force")
    run("images", "gc", "--dry-run")
    run("images", "key", "/k")
    assert [name for name, _, _ in asked] == [
        "list_images",
        "show_image",
        "delete_images",
        "collect_images",
        "make_key",
    ]


def test_no_image_without_a_key(asked):
    done = CliRunner().invoke(main, ["checkpoint", "redis"])
    assert done.exit_code == 1
    assert "midstream images key FILE" in done.output
    assert not asked
