"""The check of the code's shape finds what it is there to find."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "checks"))

import structure


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def ring(*names: str) -> dict[str, str]:
    """Rust files of which each uses the next."""
    following = [*names[1:], names[0]]
    return {f"{name}.rs": f"use crate::{other}::Thing;" for name, other in zip(names, following, strict=True)}


def found(graph: structure.Graph, known: frozenset[str] = frozenset()) -> list[str]:
    return list(structure.wrong_circles("p", graph, known))


def test_a_circle_of_four_rust_files_is_found(tmp_path: Path) -> None:
    graph = structure.rust_graph(write(tmp_path, {**ring("a", "b", "c", "d"), "e.rs": "use crate::a::Thing;"}))
    assert found(graph) == ["p: 4 files import each other: a.rs, b.rs, c.rs, d.rs"]


def test_a_circle_of_three_is_permitted(tmp_path: Path) -> None:
    graph = structure.rust_graph(write(tmp_path, ring("a", "b", "c")))
    assert structure.circles(graph) == [frozenset({"a.rs", "b.rs", "c.rs"})]
    assert found(graph) == []


def test_paths_are_followed_however_they_are_written(tmp_path: Path) -> None:
    files = {
        "lib.rs": "mod a; mod call; mod far; mod in_tests; mod said;",
        "a.rs": """
            use crate::{call::{self, relay::{Relay, End as E}}, far};
            // use crate::said::Nothing;
            fn f() { crate::call::entry::begin(); }
            #[cfg(all(test, target_os = "linux"))]
            mod tests { use crate::in_tests::T; }
        """,
        "call/mod.rs": "pub mod entry;\nmod relay;",
        "call/entry.rs": "use super::relay; use super::super::a;",
        "call/relay.rs": "use self::inner::X;",
        "far.rs": "",
        "in_tests.rs": "",
        "said.rs": "",
    }
    graph = structure.rust_graph(write(tmp_path, files))
    assert graph["a.rs"] == {"call/mod.rs", "call/relay.rs", "call/entry.rs", "far.rs"}
    assert graph["call/mod.rs"] == {"call/entry.rs", "call/relay.rs"}
    assert graph["call/entry.rs"] == {"call/relay.rs", "a.rs"}
    assert graph["call/relay.rs"] == frozenset()
    assert graph["lib.rs"] == frozenset()


def test_a_circle_of_python_files_is_found(tmp_path: Path) -> None:
    files = {
        "p/__init__.py": "",
        "p/a.py": "from p import b",
        "p/b.py": "import p.c",
        "p/c.py": "def f():\n    from p.d.e import thing",
        "p/d/__init__.py": "",
        "p/d/e.py": "from p.a import thing",
        "p/f.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.g import x",
        "p/g.py": "from p.f import y",
    }
    graph = structure.python_graph(write(tmp_path, files) / "p")
    assert found(graph) == ["p: 4 files import each other: a.py, b.py, c.py, d/e.py"]


def test_the_lists_of_what_is_known_only_shrink(tmp_path: Path) -> None:
    graph = structure.rust_graph(write(tmp_path, ring("a", "b", "c", "d")))
    known = frozenset({"a.rs", "b.rs", "c.rs", "d.rs"})
    assert found(graph, known) == []
    assert found(graph, known - {"d.rs"}) == ["p: 4 files import each other: a.rs, b.rs, c.rs, d.rs"]
    assert found(graph, known | {"e.rs"}) == ["p: e.rs is in no large circle any more; take it out of KNOWN_CIRCLES"]
    lines = {"long.rs": 501, "short.rs": 500}
    assert list(structure.wrong_lengths(lines, {"long.rs"})) == []
    assert list(structure.wrong_lengths(lines, {"short.rs"})) == [
        "long.rs has 501 lines, 500 are allowed",
        "short.rs is not too long any more; take it out of KNOWN_LONG",
    ]


def test_all_our_code_is_looked_at() -> None:
    lines = structure.lengths(structure.ROOT)
    for file in ("crates/core/src/lib.rs", "src/modelmesh/ports.py", "checks/structure.py"):
        assert file in lines or (structure.ROOT / file).with_suffix("").is_dir(), file
    assert not any("_pb2" in file or "/target/" in file for file in lines)
    crates = {str(file.parent.relative_to(structure.ROOT)) for file in structure.ROOT.glob("*/*/Cargo.toml")}
    assert crates == set(structure.CRATES)


@pytest.mark.parametrize("size", [1, 2, 50])
def test_circles_of_any_size(size: int) -> None:
    names = [f"{number:03}" for number in range(size)]
    graph = {name: frozenset({following}) for name, following in zip(names, [*names[1:], names[0]], strict=True)}
    assert structure.circles(graph) == ([frozenset(names)] if size > 1 else [])


def test_what_a_benchmark_or_a_tool_leaves_behind_is_not_ours(tmp_path: Path) -> None:
    for name in ("benchmarks/results/.scratch/lib/theirs.py", "crates/core/target/made.rs", "src/ours.py"):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_text("x\n" * 600)
    assert structure.lengths(tmp_path) == {"src/ours.py": 600}


def test_only_a_few_files_may_import_the_native_module(tmp_path: Path) -> None:
    files = {
        "_core/__init__.py": "",
        "adapters/channel.py": "from package._core import _native",
        "policy/route.py": "from package._core._native import choose_copy",
        "_core/_server.py": "from package._core._native import Came",
        "runtime/calls.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package._core._native import OpenedCall",
    }
    graph = structure.python_graph(write(tmp_path / "package", files))
    (sentence,) = structure.wrong_imports_of_native(graph)
    assert sentence.startswith("policy/route.py imports modelmesh._core; only adapters/channel.py, ")


def test_those_that_may_import_the_native_module_do() -> None:
    graph = structure.python_graph(structure.ROOT / "src/modelmesh")
    assert {
        file
        for file in graph
        if not file.startswith(structure.NATIVE) and any(to.startswith(structure.NATIVE) for to in graph[file])
    } == structure.MAY_IMPORT_NATIVE
