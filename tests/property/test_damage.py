"""No damage to a sealed folder of images goes unseen: a thousand of them, on real files."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from pathlib import Path

import pytest

from checkpoint.core import manifest as m
from checkpoint.core.errors import AgentError, Code
from checkpoint.images import store as stores
from checkpoint.images.store import Store

KEY = bytes(range(32))
CASES = 1000
SIZES = {"core-1.img": 700, "empty.img": 0, "fdinfo-2.img": 90, "files.img": 3000, "pages-1.img": m.CHUNK_BYTES + 999,
         "pstree.img": 16, "tcp-stream-1.img": 60, "tcp-stream-2.img": 60}  # fmt: skip


def flip(folder: Path, chance: random.Random) -> str:
    path = pick(folder, chance)
    with path.open("r+b") as file:
        at = chance.randrange(path.stat().st_size)
        (byte,) = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte ^ 1 << chance.randrange(8)]), at)
    return path.name


def truncate(folder: Path, chance: random.Random) -> str:
    path = pick(folder, chance)
    os.truncate(path, chance.randrange(path.stat().st_size))
    return path.name


def extend(folder: Path, chance: random.Random) -> str:
    path = folder / chance.choice(sorted(SIZES))
    with path.open("ab") as file:
        file.write(bytes(chance.randrange(1, 5000)))
    return path.name


def swap(folder: Path, chance: random.Random) -> str:
    one, other = chance.sample(sorted(SIZES), 2)
    (folder / one).rename(folder / "aside")
    (folder / other).rename(folder / one)
    (folder / "aside").rename(folder / other)
    return min(one, other)


def swap_halves(folder: Path, chance: random.Random) -> str:
    path = pick(folder, chance)
    raw = path.read_bytes()
    cut = chance.randrange(1, len(raw))
    path.write_bytes(raw[cut:] + raw[:cut])
    return path.name


def add(folder: Path, chance: random.Random) -> str:
    path = folder / f"{chance.choice('acpz')}-{chance.randrange(100)}.img"
    path.write_bytes(chance.randbytes(chance.randrange(20)))
    return path.name


def remove(folder: Path, chance: random.Random) -> str:
    path = folder / chance.choice(sorted(SIZES))
    path.unlink()
    return path.name


def rename(folder: Path, chance: random.Random) -> str:
    path = folder / chance.choice(sorted(SIZES))
    path.rename(folder / f"{path.name}.old")
    return path.name


DAMAGES = (flip, flip, truncate, extend, swap, swap_halves, add, remove, rename)


def pick(folder: Path, chance: random.Random) -> Path:
    return folder / chance.choice([name for name, size in SIZES.items() if size])


def make(folder: Path, content: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        if path.name not in content:
            path.unlink()
    for name, raw in content.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != raw:
            path.write_bytes(raw)


def test_every_damage_is_found_and_named():
    chance = random.Random(1)
    content = {name: chance.randbytes(size) for name, size in SIZES.items()}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, asyncio.Runner() as runner:
        store = Store(Path(name))
        folder = store.make("m").images
        make(folder, content)
        sealed, _ = runner.run(store.seal(folder, KEY, stores.listing(folder), {}))
        content[m.NAME] = (folder / m.NAME).read_bytes()
        for _ in range(CASES):
            damage = chance.choice(DAMAGES)
            damaged = damage(folder, chance)
            with pytest.raises(AgentError) as caught:
                m.compare(sealed, runner.run(store.survey(folder, KEY, stores.listing(folder))))
            assert caught.value.code is Code.IMAGE_DAMAGED
            assert f" {damaged} " in caught.value.problem.message, damage
            make(folder, content)
        m.compare(sealed, runner.run(store.survey(folder, KEY, stores.listing(folder))))
        store.close()
