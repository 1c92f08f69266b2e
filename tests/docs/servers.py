"""Renders docs/reference/servers.md: what is said of each server, and what `make test-servers` found."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "servers.md"
RESULTS = ROOT / "tests" / "servers" / "results"
TEXT = Path(__file__).parent / "servers.md"
MARK = "<!-- matrix -->\n"


def page() -> str:
    """The page."""
    before, after = TEXT.read_text().split(MARK)
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    return before + "\n".join(map(_matrix, found)) + after


def _matrix(result: Mapping[str, Any]) -> str:
    formats: Mapping[str, Mapping[str, str]] = result["formats"]
    checks = sorted({check for verdicts in formats.values() for check in verdicts})
    notes: list[str] = []
    lines = [
        f"### {result['server']} {result['version']}\n",
        f"| check | {' | '.join(formats)} |",
        f"|---|{'---|' * len(formats)}",
    ]
    for check in checks:
        cells = [_cell(verdicts.get(check, "-"), notes) for verdicts in formats.values()]
        lines.append(f"| {check.replace('_', ' ')} | {' | '.join(cells)} |")
    lines.append("")
    lines += [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join(lines) + "\n"


def _cell(verdict: str, notes: list[str]) -> str:
    if verdict in {"ok", "-"}:
        return verdict
    word, _, why = verdict.partition(": ")
    if why not in notes:
        notes.append(why)
    return f"{'no' if word == 'FAILED' else word} ({notes.index(why) + 1})"


def main() -> int:
    """Write the page."""
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
