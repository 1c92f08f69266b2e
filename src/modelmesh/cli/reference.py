"""The commands as a page: `python -m modelmesh.cli.reference` writes it; a test holds it to the commands."""

import sys
from pathlib import Path
from typing import Any

import typer

from modelmesh.cli import app

HEADER = """# Commands

Written from the commands themselves by `make docs`; not edited by hand. `modelmesh COMMAND --help` shows the same.

`--address` and `--ca` may also be set in `MODELMESH_ADDRESS` and `MODELMESH_CA`; `MODELMESH_CERT` and `MODELMESH_KEY` name the PEM files of a client
certificate, where instances ask for one, and `MODELMESH_API_KEY` has an API key or a token. A command that fails says why in one line on standard error and
ends with status 1; wrong arguments end it with 2.
"""


def page() -> str:
    """The reference page."""
    root: Any = typer.main.get_command(app)
    return HEADER + "".join(_section(f"modelmesh {name}", command) for name, command in _leaves(root))


def _leaves(group: Any, before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, command in sorted(group.commands.items()):
        full = f"{before}{name}"
        found += _leaves(command, f"{full} ") if hasattr(command, "commands") else [(full, command)]
    return found


def _section(name: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    usage = " ".join([name, *(_placeholder(argument) for argument in arguments)])
    lines = [f"\n## {usage}\n\n{command.help.strip()}\n"]
    rows = [(f"`{_placeholder(argument)}`", argument) for argument in arguments]
    rows += [(", ".join(f"`{text}`" for text in option.opts), option) for option in options if option.name != "help"]
    if rows:
        lines.append("\n| | default | meaning |\n|---|---|---|\n")
        lines += [f"| {label} | {_default(parameter)} | {parameter.help or ''} |\n" for label, parameter in rows]
    return "".join(lines)


def _placeholder(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _default(parameter: Any) -> str:
    if parameter.required:
        return "**required**"
    value = parameter.default
    return "" if value in (None, "", False, ()) or callable(value) else f"`{value}`"


def main() -> int:
    """Write the page where it belongs, from the root of the repository."""
    Path("docs/reference/cli.md").write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
