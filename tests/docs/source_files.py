"""Renders docs/development/files.md from what each file says of itself: `python tests/docs/source_files.py`."""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "development" / "files.md"
FOLDERS = (
    *sorted({path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("crates/*/src/**/*.rs")}),
    *(f"src/modelmesh/{name}" for name in ("values", "policy", "declared", "machines", "ports", "", "control")),
    *(f"src/modelmesh/control/{name}" for name in ("view", "copies", "requests", "life", "duties")),
    "src/modelmesh/management",
    *(f"src/modelmesh/adapters/{name}" for name in ("", "dataplane", "store", "runtime", "peers", "http")),
    *(f"src/modelmesh/adapters/{name}" for name in ("telemetry", "payloads", "credentials")),
    *(
        f"src/modelmesh/{name}"
        for name in ("storage", "storage/sources", "puller", "runtime", "runtime/workers", "servers", "instance")
    ),
    *sorted({path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("src/modelmesh/kubernetes/**/*.py")}),
    *(f"src/modelmesh/{name}" for name in ("client", "cli", "testing", "testing/controlplane", "testing/kubelet")),
)

HEADER = """# File by file

What each source file says of itself, rendered by `make docs`. [ARCHITECTURE.md](../../ARCHITECTURE.md) has the picture, and follows a request and a
decision through these files.
"""


def page() -> str:
    """The page."""
    return HEADER + "".join(_folder(ROOT / name) for name in FOLDERS)


def _folder(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in {".py", ".rs"})
    package = folder / "__init__.py"
    said = f"{_first_sentence(package)}\n\n" if package.exists() else ""
    rows = "".join(
        f"| [`{path.name}`]({Path('../..') / path.relative_to(ROOT)}) | {_first_sentence(path)} |\n"
        for path in files
        if path != package
    )
    name = folder.relative_to(ROOT).as_posix()
    return f"\n## `{name}/`\n\n{said}" + (f"| file | |\n|---|---|\n{rows}" if rows else "")


def _first_sentence(path: Path) -> str:
    text = path.read_text()
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        said = "\n".join(line.removeprefix("//!").strip() for line in text.splitlines() if line.startswith("//!"))
    paragraph = " ".join(said.partition("\n\n")[0].split())
    assert paragraph, f"{path.relative_to(ROOT)} does not say what it is for"
    sentence = re.match(r".*?[.?](?=\s|$)", paragraph)
    return (sentence[0] if sentence else paragraph).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.exit(0)
