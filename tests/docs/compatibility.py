"""Renders docs/reference/compatibility.md from compatibility.toml: `python tests/docs/compatibility.py`."""

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reference" / "compatibility.md"
STATES = ("same", "changed", "gone")

HEADER = """# Compatibility with ModelMesh

Every name that ModelMesh (the archived Java project) showed to the outside, and where it is now. Rendered from
`tests/docs/compatibility.toml` by `make docs`; a test holds each row to the code and the other pages.

*same*: works as before, what stands behind it is better · *changed*: works, with the difference named · *gone*: does not work any more,
for the reason named. How to move over: [migrate-from-modelmesh](../how-to/migrate-from-modelmesh.md).
"""


@dataclass(frozen=True)
class Row:
    """One name. `note` may be empty for what is the same."""

    kind: str
    name: str
    state: str
    note: str


@dataclass(frozen=True)
class Section:
    """Rows of one kind."""

    title: str
    check: str
    rows: tuple[Row, ...]


def load() -> tuple[dict[str, Section], frozenset[str]]:
    """The sections by kind, and the names that are awaited."""
    document = tomllib.loads((HERE / "compatibility.toml").read_text())
    awaited = frozenset(document.pop("awaited"))
    sections = {
        kind: Section(
            table["title"],
            table["check"],
            tuple(Row(kind, name, *_parts(text)) for name, text in table["rows"].items()),
        )
        for kind, table in document.items()
    }
    return sections, awaited


def _parts(text: str) -> tuple[str, str]:
    state, _, note = text.partition(":")
    return state, note.strip()


def page() -> str:
    """The page."""
    lines = [HEADER]
    for section in load()[0].values():
        lines.append(f"\n## {section.title}\n\n{section.check}\n\n| name | | |\n|---|---|---|\n")
        lines += [f"| {_name(row.name)} | {row.state} | {row.note} |\n" for row in section.rows]
    return "".join(lines)


def _name(name: str) -> str:
    return name if "`" in name else f"`{name.strip()}`"


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.exit(0)
