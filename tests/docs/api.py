"""Renders docs/reference/api.md from the protos: `python tests/docs/api.py`."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "api.md"
PROTOS = ("model-mesh.proto", "admin.proto", "model-runtime.proto", "peer.proto")

HEADER = """# API

Rendered from [`proto/`](../../proto) by `make docs`. An installed package has the files in `modelmesh/_proto/`. Management and `modelmesh.v1.Admin` are answered on the serving port, beside every inference
service; [errors](errors.md) lists statuses and texts, [vmodels](vmodels.md) says what a vmodel is, and
[write-a-runtime](../tutorials/write-a-runtime.md) what a runtime answers. `grpc.health.v1.Health` and reflection are there too.
"""


def page() -> str:
    """The page."""
    return HEADER + "".join(_file((ROOT / "proto" / name).read_text()) for name in PROTOS)


def _file(text: str) -> str:  # noqa: C901 - one branch per kind of line
    """The services and types of one proto; the comment above a line is what it means."""
    package = re.search(r"^package ([\w.]+);", text, re.MULTILINE)
    assert package
    intro = " ".join(line.removeprefix("//").strip() for line in text.partition("\nsyntax")[0].splitlines())
    sections: dict[str, list[str]] = {}
    comment: list[str] = []
    nesting: list[str] = []
    for line in map(str.strip, text.partition("package ")[2].splitlines()[1:]):
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
            continue
        said, comment = " ".join(comment), []
        name = ".".join(nesting)
        if opened := re.match(r"(service|message|enum) (\w+) \{(\})?", line):
            kind, inner, closed = opened.groups()
            full = ".".join([*nesting, inner])
            if kind == "service":
                title = f"\n## `{package[1]}.{full}`\n\n{intro}\n\n| method | request | answer | |\n|---|---|---|---|\n"
                sections[full] = [title]
            elif not closed:
                explained = f"{said}\n\n" if said else ""
                sections[full] = [
                    f"\n### {kind} `{full}`\n\n{explained}| name | type | number | |\n|---|---|---|---|\n"
                ]
            if not closed:
                nesting.append(inner)
        elif line == "}":
            nesting.pop()
        elif method := re.match(r"rpc (\w+)\(([\w ]+)\) returns \(([\w ]+)\)", line):
            sections[name].append(f"| `{method[1]}` | `{method[2]}` | `{method[3]}` | {said} |\n")
        elif field := re.match(r"([\w<>., ]+?) (\w+) = (\d+);", line):
            sections[name].append(f"| `{field[2]}` | {field[1]} | {field[3]} | {said} |\n")
        elif value := re.match(r"(\w+) = (\d+);", line):
            sections[name].append(f"| `{value[1]}` | | {value[2]} | {said} |\n")
    return "".join("".join(rows) for rows in sections.values())


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.exit(0)
