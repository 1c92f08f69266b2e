"""The pages: links lead somewhere, commands exist, tables name what the code has."""

import re
from pathlib import Path

import pytest

from modelmesh.machines.model_copy import CopyState

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
        *ROOT.glob("benchmarks/**/*.md"),
    ]
    if "node_modules" not in page.parts
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_named_in_pages_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"(?:^\$ |`)make ([a-z-]+)", page.read_text(), flags=re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{page.name} names make {target}"


def test_files_named_in_the_architecture_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(
        re.findall(
            r"`((?:crates|control|machines|policy|management|adapters|modelmesh|proto|tests)/[\w/.]+\.(?:rs|py|pyi))`",
            text,
        )
    )
    assert named
    for name in named:
        places = [ROOT / name, ROOT / "src" / name, ROOT / "src" / "modelmesh" / name]
        assert any(place.exists() for place in places), f"ARCHITECTURE.md names {name}"
    core = set(re.findall(r"`(\w+\.rs)`", text))
    for name in core:
        assert (ROOT / "crates" / "core" / "src" / name).exists(), f"ARCHITECTURE.md names {name}"


def test_the_states_of_a_copy_are_drawn_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for state in CopyState:
        if state is not CopyState.ABANDONED:  # a corner of claiming
            assert state.value in text


def test_nothing_was_left_for_later() -> None:
    """No leftover markers in code."""
    marker = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")))
    for folder in ("src", "crates", "tests", "examples", "benchmarks", "proto"):
        for path in (ROOT / folder).rglob("*"):
            if (
                path.suffix in {".py", ".rs", ".pyi", ".proto"}
                and "_proto" not in path.parts
                and "target" not in path.parts
            ):
                for number, line in enumerate(path.read_text().splitlines(), 1):
                    assert not marker.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
