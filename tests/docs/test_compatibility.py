"""Every name of the old system's outside is there, or listed with a reason."""

import re
from functools import cache
from pathlib import Path

import pytest
from compatibility import PAGE, STATES, Row, load, page

from modelmesh.instance.settings import Settings
from modelmesh.instance.sources import environment_names
from modelmesh.values.legacy import WITHOUT_EFFECT, full_names

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
SECTIONS, AWAITED = load()
ROWS = [row for section in SECTIONS.values() for row in section.rows]


@cache
def code() -> str:
    """All our code as text, tests aside."""
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "crates").rglob("*.rs"), *(ROOT / "deploy" / "image").iterdir()]
    return "\n".join(path.read_text() for path in sources if "_proto" not in path.parts)


@cache
def reference(name: str) -> str:
    return (REFERENCE / name).read_text()


def is_there(row: Row) -> bool:
    """Whether code and pages have it; only asked for names that should be."""
    match row.kind:
        case "variable":
            return any(row.name in environment_names(field) for field in Settings.model_fields)
        case "config":
            return f'"{row.name}"' in code()
        case "header":
            return f"`{row.name}`" in reference("headers.md") and f'"{row.name}"' in code()
        case "port":
            return bool(re.search(rf"\| {row.name} \|", reference("ports.md")))
        case "endpoint":
            return f"`{row.name}`" in reference("ports.md") and f'"{row.name}"' in code()
        case "service":
            return row.name in code() or not row.name.islower()
        case "status":
            return row.name in code()
        case "metric":
            return row.name in reference("metrics.md")
        case _:
            return True


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}:{row.name}")
def test_each_name_is_there_or_has_a_reason(row: Row) -> None:
    assert row.state in STATES
    if row.state != "same":
        assert row.note, "a reason is missing"
    if row.kind == "metric" and "metrics.md" in AWAITED and not (REFERENCE / "metrics.md").exists():
        pytest.skip("the metrics page is awaited")
    if row.state == "gone":
        assert row.kind != "variable" or not is_there(row), f"{row.name} is said to be gone, and is a setting"
    elif row.kind != "status" and ("/" in row.name.lstrip("/") or " " in row.name.strip()):
        return  # a description, or a path that the image's own test looks at
    elif row.name not in AWAITED:
        assert is_there(row)


def test_names_that_are_said_to_do_nothing_are_listed_as_gone() -> None:
    gone = " ".join(row.name for row in SECTIONS["variable"].rows if row.state == "gone")
    for name in WITHOUT_EFFECT:
        assert name in gone


def test_old_names_of_settings_are_listed() -> None:
    listed = {row.name for row in SECTIONS["variable"].rows}
    for field in Settings.model_fields:
        for old in environment_names(field)[1:]:
            assert old in listed, f"{old} is understood and not listed"


def test_methods_of_old_are_answered() -> None:
    assert "com.ibm.watson.tas.proto.TasRuntime/addModel" in full_names("registerModel")
    assert "mmesh.ModelMesh/deleteModel" in full_names("unregisterModel")


def test_the_page_is_what_the_list_says() -> None:
    assert PAGE.read_text() == page(), "run: make docs"
