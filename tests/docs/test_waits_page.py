"""The page of waits: its bounds are the code's, and no call of a port and no bound in the code is without a row."""

import importlib
import inspect
import re
from pathlib import Path

from modelmesh import ports

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "waits.md").read_text()
ROWS = [row.split(" | ") for row in re.findall(r"^\| (.+) \|$", PAGE, flags=re.MULTILINE)]
UNITS = {"s": 1.0, "min": 60.0}
BOUND = re.compile(r"^([A-Z_]*(?:BOUND|TIMEOUT|GRACE|GOODBYE|BUDGET|RESORT)[A-Z_]*_(?:S|MS)) = ", flags=re.MULTILINE)
NO_WAIT = {"control.copies.runtime_link.MIN_LOAD_TIMEOUT_MS", "testing.sizing.CALL_TIMEOUT_MS"}
"""What a runtime may say of itself; and of the simulator."""


def names(text: str) -> list[str]:
    return re.findall(r"`([a-z_.]+\.[A-Z_]+)`", text)


def seconds(name: str) -> float:
    module, _, constant = name.rpartition(".")
    value = getattr(importlib.import_module(f"modelmesh.{module}"), constant)
    return value / 1000 if name.endswith("_MS") else value


def test_bounds_are_those_of_the_code() -> None:
    compared = 0
    for row in ROWS:
        told = [float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+) (s|min)\b", " ".join(row[1:]))]
        for name in names(" ".join(row[1:])):
            assert seconds(name) in told, row
            compared += 1
    assert compared > 30


def test_every_call_of_a_port_has_a_row() -> None:
    calls = [
        name
        for port in (ports.Runtime, ports.Peers, ports.Store)
        for name, member in vars(port).items()
        if (inspect.iscoroutinefunction(member) or name == "watch") and name != "close"
    ]
    first = " ".join(row[0] for row in ROWS)
    assert [name for name in calls if f"`{name}`" not in first] == []


def test_every_bound_in_the_code_has_a_row() -> None:
    found = set()
    for path in (ROOT / "src" / "modelmesh").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT / "src" / "modelmesh").with_suffix("").parts)
        found |= {f"{module}.{constant}" for constant in BOUND.findall(path.read_text())}
    assert sorted(found - set(names(PAGE)) - NO_WAIT) == []
