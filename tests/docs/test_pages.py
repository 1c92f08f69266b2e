"""The pages: links lead somewhere, commands exist, tables name what the code has."""

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import api
import pytest
import source_files

import servers as servers_page
from modelmesh._proto import admin_pb2, model_mesh_pb2, model_runtime_pb2, peer_pb2
from modelmesh.adapters.telemetry.logs import COMPONENTS
from modelmesh.cli import reference as commands
from modelmesh.control.copies.entry import DropReason
from modelmesh.machines.model_copy import CopyState
from modelmesh.policy.attempt import AttemptReason
from modelmesh.policy.balance import BalanceReason
from modelmesh.policy.copies import CopiesReason
from modelmesh.policy.drain import DrainReason
from modelmesh.policy.fallback import FallbackReason
from modelmesh.policy.promotion import PromotionReason
from modelmesh.policy.rollout import RolloutReason
from modelmesh.policy.victims import EvictionReason
from modelmesh.runtime.formats import BUILT_IN, BUILT_IN_NAMED_SUFFIXES, BUILT_IN_SUFFIXES, runs_code
from modelmesh.values.dataplane import Outcome

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


def test_every_limit_of_the_security_page_has_a_test() -> None:
    page = (ROOT / "SECURITY.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| what ")]
    for row in rows:
        assert "::" in row, f"no test: {row}"
    for path, name in re.findall(r"`([\w/.]+)::(\w+)`", page):
        text = (ROOT / path).read_text()
        assert re.search(rf"\b(def|fn) {name}\(", text), f"{path} has no {name}"


def format_class(name: str) -> Any:
    """Of a built-in format; its packages may be missing."""
    module, _, attribute = BUILT_IN[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def test_the_formats_page_has_what_the_built_in_runtime_has() -> None:
    page = (ROOT / "docs" / "reference" / "formats.md").read_text()
    for name, suffixes in BUILT_IN_SUFFIXES.items():
        auto, named = (
            " ".join(f"`{one}`" for one in each) for each in (suffixes, BUILT_IN_NAMED_SUFFIXES.get(name, ()))
        )
        can = "yes" if runs_code(format_class(name)) else "no"
        extra = f"`pymodelmesh[{name}]` " if name != "python" else ""
        assert f"| `{name}` | {auto} | {named + ' ' if named else ''}| {extra}| {can} |" in page


def test_every_attack_of_its_page_has_a_test() -> None:
    page = (ROOT / "docs" / "reference" / "http2-attacks.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| attack ")]
    assert len(rows) > 20
    for row in rows:
        _, _, tests, measured, _ = row.split("|")
        named = re.findall(r"`([\w/.]+)::(\w+)`", tests)
        assert named, f"no test: {row}"
        assert measured.strip(), f"nothing was measured: {row}"
        for path, name in named:
            assert re.search(rf"\b(def|fn) {name}\(", (ROOT / path).read_text()), f"{path} has no {name}"


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
    core = set(re.findall(r"`((?:\w+/)?\w+\.rs)`", text))
    for name in core:
        assert (ROOT / "crates" / "core" / "src" / name).exists(), f"ARCHITECTURE.md names {name}"


def test_the_table_of_changes_names_files_and_places_in_them() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text.partition("## 7. To add X")[2].partition("## 8.")[0]
    seams = re.findall(r"`((?:src|crates)/[\w/.]+\.(?:py|rs))` \(`([^`]+)`\)", table)
    assert len(seams) >= 15
    for file, seam in seams:
        assert seam in (ROOT / file).read_text(), f"{file} has no {seam}"
    for path in re.findall(r"`((?:src|crates|tests)/[\w/.]+)`", table):
        assert (ROOT / path).exists(), path
    rows = [row for row in table.splitlines() if row.startswith(("| a", "| who"))]
    assert len(rows) >= 10


def named_tests(text: str) -> list[tuple[str, str]]:
    """Files and tests in them that a table names."""
    found = re.findall(r"`(tests/[\w/]+\.py)`: ((?:`test_\w+`(?:, )?)+)", text)
    return [(file, name) for file, names in found for name in re.findall(r"test_\w+", names)]


@pytest.mark.parametrize("page", ["behaviours.md", "files-and-servers.md"])
def test_the_tests_that_a_page_names_exist(page: str) -> None:
    named = named_tests((ROOT / "docs" / "development" / page).read_text())
    assert named
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file} has no {name}"


def test_every_fault_and_every_old_defect_has_tests() -> None:
    text = (ROOT / "docs" / "development" / "files-and-servers.md").read_text()
    faults, defects = text.partition("## Defects")[::2]
    rows = [row for row in faults.splitlines() if row.startswith("| ") and not row.startswith("| case ")]
    assert len(rows) >= 24
    assert all(named_tests(row) for row in rows), [row for row in rows if not named_tests(row)]
    numbered = dict(re.findall(r"^\| (\d+) \|(.*)$", defects, flags=re.MULTILINE))
    assert list(map(int, numbered)) == list(range(1, 30))
    assert all(named_tests(row) for row in numbered.values())


def test_the_scenarios_that_the_behaviours_name_exist() -> None:
    text = (ROOT / "docs" / "development" / "behaviours.md").read_text()
    scenarios = {path.name for path in (ROOT / "tests" / "scenarios").glob("*.txt")}
    named = set(re.findall(r"`(\w+\.txt)`", text))
    assert named
    assert named <= scenarios, f"there is no {sorted(named - scenarios)}"


def test_the_page_of_files_is_what_they_say() -> None:
    assert source_files.PAGE.read_text() == source_files.page(), "run: make docs"
    generated = {"_core", "_proto"}
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert {name for name in packages if Path(name).name not in generated} <= {
        name.rstrip("/") for name in source_files.FOLDERS
    }


def test_the_page_of_servers_is_what_was_found() -> None:
    assert servers_page.PAGE.read_text() == servers_page.page(), "run: make docs"
    assert list(servers_page.RESULTS.glob("*.json"))


def test_policies_name_who_asks_them() -> None:
    for path in (ROOT / "src" / "modelmesh" / "policy").glob("*.py"):
        module = f"modelmesh.policy.{path.stem}"
        for caller in re.findall(r"Called by\s+`(modelmesh\.[\w.]+)`", path.read_text()):
            source = (ROOT / "src" / Path(*caller.split("."))).with_suffix(".py").read_text()
            assert f"from {module} import" in source, f"{caller} does not ask {module}"


def test_the_states_of_a_copy_are_drawn_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for state in CopyState:
        if state is not CopyState.ABANDONED:  # a corner of claiming
            assert state.value in text


def test_the_page_of_commands_is_what_they_say() -> None:
    assert (ROOT / "docs" / "reference" / "cli.md").read_text() == commands.page(), "run: make docs"


def test_the_page_of_the_api_is_what_the_protos_say() -> None:
    assert api.PAGE.read_text() == api.page(), "run: make docs"


@pytest.mark.parametrize(
    "proto", [admin_pb2, model_mesh_pb2, model_runtime_pb2, peer_pb2], ids=lambda proto: proto.__name__
)
def test_every_method_and_field_is_on_the_page(proto) -> None:
    page = api.PAGE.read_text()
    for service in proto.DESCRIPTOR.services_by_name.values():
        assert f"## `{service.full_name}`" in page
        for method in service.methods:
            request = f"{'stream ' if method.client_streaming else ''}{method.input_type.name}"
            assert f"| `{method.name}` | `{request}` | `" in page
    for message in proto.DESCRIPTOR.message_types_by_name.values():
        for field in message.fields:
            assert re.search(rf"^\| `{field.name}` \| .* \| {field.number} \|", page, flags=re.MULTILINE), (
                field.full_name
            )


def test_commands_named_in_pages_exist() -> None:
    known = {
        line.removeprefix("## modelmesh ").split(" ", 1)[0]
        for line in commands.page().splitlines()
        if line.startswith("## ")
    }
    for page in PAGES:
        for command in re.findall(r"(?:^\$ |`)modelmesh ([a-z]+)", page.read_text(), flags=re.MULTILINE):
            assert command in known, f"{page.name} names modelmesh {command}"


def test_options_named_in_pages_exist() -> None:
    """Those of each command that a page shows are on the page of commands."""
    sections = {}
    for part in commands.page().split("\n## modelmesh ")[1:]:
        title, _, section = part.partition("\n")
        sections[" ".join(word for word in title.split() if word.islower())] = section
    seen = 0
    for page in PAGES:
        for line in re.findall(r"(?:^\$ .*?|`)modelmesh ([a-z][^`\n#]*)", page.read_text(), flags=re.MULTILINE):
            words = line.split()
            section = sections.get(" ".join(words[:2])) or sections.get(words[0])
            for option in [word.partition("=")[0] for word in words if word.startswith("--")]:
                seen += 1
                assert option == "--help" or (section and f"`{option}`" in section), f"{page.name}: modelmesh {line}"
    assert seen > 20


def test_python_in_pages_compiles_and_imports_what_there_is() -> None:
    blocks = 0
    for page in PAGES:
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
            blocks += 1
            for node in ast.walk(ast.parse(block, str(page))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modelmesh"):
                    module = importlib.import_module(node.module or "")
                    assert all(hasattr(module, name.name) for name in node.names), f"{page.name}: {ast.unparse(node)}"
    assert blocks > 2


def test_every_test_file_has_a_name_of_its_own() -> None:
    """Tests are no packages: of two files with one name only the first would run."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


VARIABLE_KINDS = {"kind": {"evicted", "dropped"}}
"""What a name may be that stands there instead of a text."""


def kinds_of_events() -> set[str]:
    """First arguments of all notes in the journal."""
    kinds = set()
    for path in (ROOT / "src" / "modelmesh").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "note"
                and ast.unparse(node.func.value).endswith(("journal", "self"))
            ):
                words = {leaf.value for leaf in ast.walk(node.args[0]) if isinstance(leaf, ast.Constant)}
                kinds |= words or VARIABLE_KINDS[ast.unparse(node.args[0])]
    return kinds


def test_the_page_of_events_names_them_all_and_their_reasons() -> None:
    page = (ROOT / "docs" / "reference" / "events.md").read_text()
    events: set[str] = set()
    reasons: dict[str, set[str]] = {}
    compared: set[str] = set()
    tables = re.findall(r"^(\| (?:event|reason of .*?) \|.*\n)\|---\|---\|\n((?:\| .*\n)+)", page, flags=re.MULTILINE)
    for title, rows in tables:
        words = {word for row in rows.splitlines() for word in re.findall(r"`([\w-]+)`", row.split("|")[1])}
        if title.startswith("| event "):
            events |= words
        else:
            reasons[" ".join(re.findall(r"`(\w+)`", title))] = words
    assert events == kinds_of_events()
    for title, section in re.findall(r"^## (The store|\w+).*\n([^#]+)", page, flags=re.MULTILINE):
        component = title.removeprefix("The ").lower()
        if component in COMPONENTS and component != "instance":
            tables = re.findall(r"^\| event .*\n\|---\|---\|\n((?:\| .*\n)+)", section, flags=re.MULTILINE)
            listed = {word for rows in tables for word in re.findall(r"^\|([^|]*)\|", rows, flags=re.MULTILINE)}
            assert {word for cell in listed for word in re.findall(r"`(\w+)`", cell)} == COMPONENTS[component]
            compared.add(component)
    assert compared == COMPONENTS.keys() - {"calls", "instance"}
    # Why nothing is done is no event.
    quiet = {
        CopiesReason.ENOUGH,
        CopiesReason.NO_ROOM,
        CopiesReason.GIVEN_UP,
        CopiesReason.CHANGING,
        CopiesReason.NO_PLACE,
    }
    assert reasons == {
        "sent local gave_up": {reason.value for reason in AttemptReason},
        "attempt_failed": {outcome.value for outcome in Outcome},
        "victim evicted": {reason.value for reason in EvictionReason},
        "dropped": {reason.value for reason in DropReason},
        "adds_copies drops_copy": {reason.value for reason in CopiesReason if reason not in quiet},
        "moved": {reason.value for reason in (BalanceReason.JOINED_EMPTY, DrainReason.IN_USE, DrainReason.LOADED)},
        "fell_back": {reason.value for reason in FallbackReason},
        "rollout_rolled_back": {
            reason.value for reason in (RolloutReason.NOT_LOADED, RolloutReason.ERRORS, RolloutReason.SLOWER)
        },
        "vmodel_moved": {
            reason.value
            for reason in (PromotionReason.ACTIVE_UNUSED, PromotionReason.PARITY, PromotionReason.AS_MANY_AS_FIT)
        },
    }


def test_nothing_was_left_for_later() -> None:
    """No leftover markers in code."""
    marker = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")))
    for folder in ("src", "crates", "tests", "examples", "benchmarks", "proto"):
        for path in (ROOT / folder).rglob("*"):
            if (
                path.suffix in {".py", ".rs", ".pyi", ".proto"}
                and "_proto" not in path.parts
                and not {"target", ".scratch"} & set(path.parts)
            ):
                for number, line in enumerate(path.read_text().splitlines(), 1):
                    assert not marker.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_each_decision_has_a_number_of_its_own() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [int(page.name[:4]) for page in decisions]
    assert numbers == list(range(1, len(decisions) + 1))
    for number, page in zip(numbers, decisions, strict=True):
        assert page.read_text().startswith(f"# {number}. "), page
