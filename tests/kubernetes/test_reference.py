"""The reference page says what the code does, and leaves nothing out."""

import re
from pathlib import Path

from modelmesh.kubernetes.annotations import ANNOTATIONS
from modelmesh.kubernetes.reference import PAGE, page

SOURCE = Path(__file__).parents[2] / "src" / "modelmesh"


def test_the_page_is_what_the_code_renders() -> None:
    assert PAGE.read_text() == page(), "run: make docs"


def test_every_annotation_in_the_code_is_in_the_table() -> None:
    named = {one.name for one in ANNOTATIONS}
    found = set()
    for file in [*(SOURCE / "declared").rglob("*.py"), *(SOURCE / "kubernetes").rglob("*.py")]:
        found |= set(re.findall(r"\"((?:serving\.kserve\.io|modelmesh\.io)/[A-Za-z][A-Za-z-]+)\"", file.read_text()))
    assert found <= named, found - named
    assert len(found) > 8


def test_every_field_is_described() -> None:
    """A row without a sentence tells people nothing."""
    assert re.findall(r"^\| `(spec\.[^`]+)` \|.*\|  \|$", PAGE.read_text(), flags=re.MULTILINE) == []
