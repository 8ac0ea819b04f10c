"""What is true of the repository as a whole: its top level, its versions, its image and its set-up."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())

TOP_LEVEL = {
    *("proxy", "checkpoint", "controller", "manifests", "tests", "docs", ".ci", ".gitignore"),
    *("Dockerfile", "pyproject.toml", "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "Makefile"),
}

REGISTRIES = [
    ".".join(parts)  # in parts, or this file would be the first to name one
    for parts in (
        *(("pypi", "org"), ("pythonhosted", "org"), ("deb", "debian", "org"), ("ftp", "debian", "org")),
        *(("docker", "io"), ("ghcr", "io"), ("quay", "io"), ("gcr", "io"), ("registry", "k8s", "io")),
        *(("snapshot", "debian", "org"), ("security", "debian", "org"), ("crates", "io"), ("npmjs", "org")),
    )
]


def tracked() -> list[Path]:
    """Every file of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, check=True).stdout
    return [TOP / name for name in listed.decode().split("\0") if name and (TOP / name).is_file()]


def packages(*purposes: str) -> list[str]:
    """The Debian packages that .ci/packages lists for the given purposes."""
    lines = (line.split() for line in (TOP / ".ci" / "packages").read_text().splitlines())
    return [fields[1] for fields in lines if fields and fields[0] in purposes]


def test_the_top_level_is_what_it_is_meant_to_be():
    found = {path.relative_to(TOP).parts[0] for path in tracked()}
    assert found <= TOP_LEVEL
    assert TOP_LEVEL - found <= {"docs"}


def test_the_version_is_the_changelogs_newest():
    newest = re.search(r"^## (\d+\.\d+\.\d+)", (TOP / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == PROJECT["project"]["version"]


def test_no_file_names_a_registry():
    named = [
        (path.relative_to(TOP), host) for path in tracked() for host in REGISTRIES if host.encode() in path.read_bytes()
    ]
    assert not named


def test_every_dependency_has_a_lower_and_an_upper_bound():
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in [*PROJECT["project"]["dependencies"], *(one for extra in extras.values() for one in extra)]:
        assert re.fullmatch(r"[a-z0-9-]+>=[\d.]+,<[\d.]+", requirement), requirement


def test_every_listed_package_says_for_what_and_why():
    lines = (TOP / ".ci" / "packages").read_text().splitlines()
    assert all(re.fullmatch(r"#.*|(run|work) +[a-z0-9.+-]+ +# \S.*", line) for line in lines)
    assert {"python3-venv", "libnftables1"} <= set(packages("run"))
    assert "redis-server" in packages("work")


@pytest.mark.parametrize("package", packages("run", "work"))
def test_every_listed_package_is_installed(package):
    status = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], capture_output=True, check=True)
    assert status.stdout == b"installed"


def test_the_image_is_made_by_the_same_set_up_from_the_same_list():
    dockerfile = (TOP / "Dockerfile").read_text()
    copied = {word.rstrip("/") for line in re.findall(r"^COPY (.*)", dockerfile, re.MULTILINE) for word in line.split()}
    code = {name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert code | {".ci", "pyproject.toml", PROJECT["project"]["readme"], "LICENSE"} <= copied
    assert ".ci/setup --image" in dockerfile
    assert not any(package in dockerfile for package in packages("run", "work"))


def test_the_licence_is_the_one_that_is_declared():
    assert PROJECT["project"]["license"]["text"] == "Apache-2.0"
    assert "Apache License" in (TOP / "LICENSE").read_text()[:200]


def test_every_make_target_says_what_it_does():
    makefile = (TOP / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)", makefile, re.MULTILINE)
    assert phony is not None
    assert set(re.findall(r"^([a-z]+):.*## \S", makefile, re.MULTILINE)) == set(phony[1].split())
