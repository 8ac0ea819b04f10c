"""The JSON of a demo, against its own schema: twin of controller/demo/result.py and controller/core/result.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from controller.core.result import CriuLog, MigrationResult, PhaseTime, Problem
from controller.core.result import schema as migration_schema
from controller.demo.result import DemoResult
from controller.demo.result import schema as demo_schema
from controller.demo.verdict import judge

from .test_verdict import GOOD, MOVED, WINDOW, report

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def faults(value: Any, rule: dict[str, Any], root: dict[str, Any], at: str = "$") -> list[str]:
    """What of `value` is against the schema: the keywords that msgspec's schemas use."""
    if "$ref" in rule:
        return faults(value, root["$defs"][rule["$ref"].rpartition("/")[2]], root, at)
    if "anyOf" in rule:
        tried = [faults(value, option, root, at) for option in rule["anyOf"]]
        return [] if [] in tried else [f"{at}: fits none of {len(tried)}"]
    if "enum" in rule:
        return [] if value in rule["enum"] else [f"{at}: {value!r} is not of {rule['enum']}"]
    if not isinstance(value, TYPES[rule["type"]]) or (isinstance(value, bool) and rule["type"] != "boolean"):
        return [f"{at}: {value!r} is no {rule['type']}"]
    found = [f"{at}: {value} is too small"] if "minimum" in rule and value < rule["minimum"] else []
    if rule["type"] == "array":
        found += [f for n, each in enumerate(value) for f in faults(each, rule["items"], root, f"{at}[{n}]")]
    if rule["type"] == "object":
        found += [f"{at}: {name} is not there" for name in rule.get("required", []) if name not in value]
        others = rule.get("additionalProperties")
        known = dict.fromkeys(value, others) if others else rule["properties"]
        found += [f"{at}: {name} is not documented" for name in value if name not in known]
        found += [f for name, each in value.items() if name in known
                  for f in faults(each, known[name], root, f"{at}.{name}")]  # fmt: skip
    return found


def check(value: object, schema: dict[str, Any]) -> list[str]:
    return faults(value, schema, schema)


def demo_json() -> dict[str, Any]:
    moved = msgspec.structs.replace(MOVED, phases=[PhaseTime("Stopping", 0.002)], freeze_seconds=0.1)
    built: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(judge(report(GOOD), moved, WINDOW).result))
    return built


def test_a_demo_fits_its_schema_and_comes_back_the_same() -> None:
    assert check(demo_json(), demo_schema()) == []
    decoded = msgspec.convert(demo_json(), DemoResult)
    assert msgspec.to_builtins(decoded) == demo_json()


def test_a_migration_fits_its_schema() -> None:
    failed = msgspec.structs.replace(MOVED, outcome="failed", error=Problem("lost", "gone", "pod", "look"))
    log = CriuLog("/run/midstream/pods/a/agent/criu/x.dump.log", ["Error (criu/mem.c:9): Something odd"])
    odd = msgspec.structs.replace(failed, error=Problem("criu-failed", "odd", "machine", "look", log))
    for result in (MOVED, failed, odd, MigrationResult(migration="x", outcome="rolled-back")):
        assert check(msgspec.json.decode(msgspec.json.encode(result)), migration_schema()) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"outcome": "maybe"}, "$.outcome: 'maybe' is not of"),
        ({"replies_wrong": -1}, "$.replies_wrong: -1 is too small"),
        ({"replies_wrong": 1.5}, "$.replies_wrong: 1.5 is no integer"),
        ({"surprise": 1}, "$: surprise is not documented"),
        ({"stall_seconds": 3}, "$.stall_seconds: fits none of 2"),
    ],
)
def test_the_schema_refuses_what_is_wrong(change: dict[str, Any], fault: str) -> None:
    (found,) = check({**demo_json(), **change}, demo_schema())
    assert found.startswith(fault)


def test_the_schema_misses_what_is_missing() -> None:
    value = demo_json()
    del value["connections"]
    assert check(value, demo_schema()) == ["$: connections is not there"]


@pytest.mark.parametrize("make", [migration_schema, demo_schema])
def test_every_field_is_described(make: Callable[[], dict[str, Any]]) -> None:
    for name, definition in make()["$defs"].items():
        assert definition["description"], name
        for field, rule in definition["properties"].items():
            described = "description" in rule or "$ref" in rule or "$ref" in str(rule.get("default", rule))
            assert described, f"{name}.{field}"
