"""Every condition, reason and Event that the controller writes is on its page, and nothing else is."""

import re
from pathlib import Path

from modelmesh.kubernetes.status.models import Reason, State, Transition

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "kubernetes-conditions.md").read_text()
SOURCES = ROOT / "src" / "modelmesh" / "kubernetes"
CONDITION = re.compile(r'Condition\(\s*"(\w+)",[^")]*"(\w+)"(?: if [^"]*? else "(\w+)")?(?: if [^"]*? else "(\w+)")?')
EITHER = re.compile(r'^ +reason = "(\w+)" if .* else "(\w+)"$', re.MULTILINE)
"""A reason of a condition that is chosen the line before."""
EVENT = re.compile(r'Notice\(\s*(?:warning=)?(?:True|False|problem\.fatal), (?:reason=)?"(\w+)"')


def written() -> set[str]:
    """The words of the code."""
    words = {str(word) for kind in (Reason, Transition) for word in kind}
    words |= {str(state) for state in State if state not in {State.EMPTY, State.FAILED}}
    for file in SOURCES.rglob("*.py"):
        text = file.read_text()
        for match in CONDITION.finditer(text):
            words |= {word for word in match.groups() if word}
        words |= set(EVENT.findall(text))
        for match in EITHER.finditer(text):
            words |= set(match.groups())
    return words


def test_what_is_written_is_explained() -> None:
    explained = set(re.findall(r"`(\w+)`", PAGE))
    assert sorted(written() - explained) == []


def test_what_is_explained_is_written() -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| `Ready`")]
    reasons = {word for row in rows for word in re.findall(r"^ `(\w+)` $", row[2])}
    assert len(reasons) > 15
    assert sorted(reasons - written()) == []


def test_every_metric_has_a_row() -> None:
    text = (SOURCES / "adapters" / "metrics.py").read_text()
    families = re.findall(r'(Counter|Gauge)MetricFamily\(\s*"(\w+)"', text)
    names = {f"{name}_total" if kind == "Counter" else name for kind, name in families}
    assert len(names) > 5
    assert {
        row.partition("{")[0] for row in re.findall(r"^\| `(modelmesh_controller_[^`]*)`", PAGE, re.MULTILINE)
    } == names
