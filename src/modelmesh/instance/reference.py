"""The settings as text: the reference page, and the end of `modelmesh serve --help`.

`python -m modelmesh.instance.reference` writes the page; a test holds it to the definition.
"""

import sys
from pathlib import Path

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from modelmesh.instance.settings import Settings

HEADER = """# Settings

Environment variables of one instance, as a ModelMesh container has them. Written from the definition in
`modelmesh.instance.settings` by `make docs`; not edited by hand. Of several names the first is the one to use, the others are
old and still understood.

| variable | default | meaning |
|---|---|---|
"""


def rows() -> list[tuple[str, tuple[str, ...], str, str]]:
    """Each setting: its name, its old names, its default, its meaning."""
    found = []
    for field in Settings.model_fields.values():
        assert isinstance(field.validation_alias, AliasChoices)
        first, *old = (str(choice) for choice in field.validation_alias.choices)
        found.append((first, tuple(old), _default(field), field.description or ""))
    return found


def page() -> str:
    """The reference page."""
    lines = []
    for name, old, default, meaning in rows():
        names = "<br>".join([f"`{name}`", *(f"*{other}*" for other in old)])
        lines.append(f"| {names} | {default} | {meaning} |\n")
    return HEADER + "".join(lines)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.default
    return f"`{value}`" if value not in ("", None, ()) else ""


def main() -> int:
    """Write the page where it belongs, from the root of the repository."""
    Path("docs/reference/settings.md").write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
