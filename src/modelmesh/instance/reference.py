"""The settings as text: the reference page, and the end of `modelmesh serve --help`.

`python -m modelmesh.instance.reference` writes the page; a test holds it to the definition.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic.fields import FieldInfo

from modelmesh.instance.metrics_reference import metrics_page
from modelmesh.instance.settings import Settings
from modelmesh.instance.sources import environment_names

HEADER = """# Settings

Of one instance (`modelmesh serve`). Written from the definition in `modelmesh.instance.settings` by `make docs`; not edited by hand.

Each setting has an **environment variable**, as a ModelMesh container has it, and a **key** for a configuration file. Of several
variables the first is the one to use; those in italics are old, still understood, and named in the log at the start. An empty variable
counts as not set. Unknown `MM_…` variables are logged, with the nearest known name.

```console
$ modelmesh serve --config instance.toml
```

```toml
service_name = "my-cluster"
kv_store = "etcd:etcd:2379"
labels = ["gpu"]

[type_constraints.vision]       # what a variable holds as JSON may be a table here
required = ["gpu"]
```

From strongest to weakest: options of the command, environment, lines `NAME=value` of `/etc/environment`, the file. The file is TOML, and a
key that is not in this table is an error.

| variable | key | default | meaning |
|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. `old`: further environment names; `default` as Markdown."""

    name: str
    old: tuple[str, ...]
    key: str
    default: str
    meaning: str


def rows() -> list[Row]:
    """Each setting, in the order of the definition."""
    found = []
    for key, field in Settings.model_fields.items():
        first, *old = environment_names(key)
        found.append(Row(first, tuple(old), key, _default(field), field.description or ""))
    return found


def page() -> str:
    """The reference page."""
    lines = []
    for row in rows():
        names = "<br>".join([f"`{row.name}`", *(f"*{other}*" for other in row.old)])
        lines.append(f"| {names} | `{row.key}` | {row.default} | {row.meaning} |\n")
    return HEADER + "".join(lines)


def help_rows() -> list[tuple[str, str]]:
    """Each variable and what it means, for a terminal."""
    found = []
    for row in rows():
        default = row.default.strip("`*")
        ending = " [required]" if default == "required" else f" [default: {default}]" if default else ""
        old = f" (Old: {', '.join(row.old)}.)" if row.old else ""
        found.append((row.name, row.meaning.replace("`", "") + old + ending))
    return found


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.default
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        value = ",".join(value)
    return f"`{value}`" if value not in ("", None, Path()) else ""


def main() -> int:
    """Write the pages where they belong, from the root of the repository."""
    Path("docs/reference/settings.md").write_text(page())
    Path("docs/reference/metrics.md").write_text(metrics_page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
