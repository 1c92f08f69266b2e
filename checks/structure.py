"""The shape of the code: few files in a circle of imports, and no long file. `make check` runs it.

A circle of a few files is one thing in several files. Of a large one no part can be understood, tested or changed by
itself. What is known to be wrong stands in lists that may only shrink.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_IN_CIRCLE = 3
"""Files that may import each other, however indirectly."""
MOST_LINES = 500

KNOWN_CIRCLES: Mapping[str, frozenset[str]] = {}
"""By package: files of circles that are still too large."""
KNOWN_LONG: frozenset[str] = frozenset()
"""Files that are still too long."""

NATIVE = "_core/"
MAY_IMPORT_NATIVE = frozenset(
    {
        "adapters/channel.py",
        "adapters/dataplane/events.py",
        "adapters/dataplane/native.py",
        "runtime/grpc_server.py",
        "runtime/inference.py",
        "runtime/onnx.py",
    }
)
"""Files of the package that may import the native module. import-linter does not see imports of compiled modules."""

CRATES = ("crates/core", "crates/http2", "crates/onnx", "crates/python", "crates/rest", "benchmarks/kit")
PACKAGES = ("src/modelmesh",)
CODE = ("benchmarks", "checks", "crates", "deploy", "examples", "proto", "src", "tests")
GENERATED = ("_pb2.py", "_pb2_grpc.py")

Graph = Mapping[str, frozenset[str]]
"""Who imports whom, by file."""


def circles(graph: Graph) -> list[frozenset[str]]:
    """Files that import each other: the strongly connected components of more than one file (Tarjan, 1972)."""
    found: list[frozenset[str]] = []
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    on_path: set[str] = set()

    def enter(name: str) -> tuple[str, Iterator[str]]:
        number[name] = lowest[name] = len(number)
        path.append(name)
        on_path.add(name)
        return name, iter(sorted(graph.get(name, ())))

    for start in sorted(graph):
        work = [enter(start)] if start not in number else []
        while work:
            name, rest = work[-1]
            target = next(rest, None)
            if target is None:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[name])
                if lowest[name] == number[name]:
                    at = path.index(name)
                    on_path.difference_update(path[at:])
                    found.append(frozenset(path[at:]))
                    del path[at:]
            elif target not in number:
                work.append(enter(target))
            elif target in on_path:
                lowest[name] = min(lowest[name], number[target])
    return [circle for circle in found if len(circle) > 1]


# --- Rust -----------------------------------------------------------------------------------------

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_TESTS = re.compile(r"#\[cfg\((?:test|all\(test\b[^\]]*)\)\]\s*mod \w+ \{.*", re.DOTALL)
_PATH = re.compile(r"\b(crate|self|super)((?:::super)*)::")
_MOD = re.compile(r"^\s*(?:pub(?:\([a-z]+\))? )?mod (\w+);", re.MULTILINE)
_NAME = re.compile(r"\w+")


def rust_graph(source: Path) -> Graph:
    """Imports between the files of a crate, from its `src`. What stands in a file's tests does not count."""
    files = {_rust_module(file.relative_to(source)): file for file in source.rglob("*.rs")}
    graph: dict[str, frozenset[str]] = {}
    for module, file in files.items():
        text = _TESTS.sub("", _COMMENT.sub("", file.read_text()))
        names = set(rust_paths(text, module))
        if module:
            # The root names every module that there is.
            names.update((*module, child) for child in _MOD.findall(text))
        targets = {_known(name, files) for name in names}
        graph[_name(source, file)] = frozenset(
            _name(source, files[target]) for target in targets if target is not None and target != module
        )
    return graph


def rust_paths(text: str, module: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every path of the crate that the text of a module names, with groups written out."""
    for match in _PATH.finditer(text):
        base = module if match[1] != "crate" else ()
        up = (match[1] == "super") + match[2].count("super")
        base = base[: len(base) - up]
        for rest in _tree(text, match.end())[0]:
            yield (*base, *rest)


def _tree(text: str, at: int) -> tuple[list[tuple[str, ...]], int]:
    """The paths of one `a::{b, c::d}` that begins there, and where it ends."""
    if text[at : at + 1] == "{":
        paths: list[tuple[str, ...]] = []
        at += 1
        while at < len(text) and text[at] != "}":
            name = _NAME.match(text, at)
            if name is None:
                at += 1
                continue
            more, at = _tree(text, at)
            paths += more
            renamed = re.compile(r"\s*as \w+").match(text, at)
            at = renamed.end() if renamed else at
        return paths, at + 1
    name = _NAME.match(text, at)
    if name is None:
        return [()], at
    at = name.end()
    if text.startswith("::", at) and (text[at + 2 : at + 3] == "{" or _NAME.match(text, at + 2)):
        rest, at = _tree(text, at + 2)
        return [(name[0], *path) for path in rest], at
    return [(name[0],)], at


def _rust_module(file: Path) -> tuple[str, ...]:
    parts = file.with_suffix("").parts
    return parts[:-1] if parts[-1] in {"lib", "main", "mod"} else parts


# --- Python ---------------------------------------------------------------------------------------


def python_graph(package: Path) -> Graph:
    """Imports between the files of a package. What only type checkers read does not count."""
    files = {_python_module(file, package): file for file in package.rglob("*.py") if not _is_generated(file)}
    graph: dict[str, frozenset[str]] = {}
    for module, file in files.items():
        targets = {_known(name, files) for name in _python_imports(ast.parse(file.read_text()))}
        graph[_name(package, file)] = frozenset(
            _name(package, files[target]) for target in targets if target is not None and target != module
        )
    return graph


def _python_imports(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.Import():
                yield from (tuple(name.name.split(".")) for name in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                yield from ((*module.split("."), name.name) for name in node.names)
            case _:
                yield from _python_imports(node)


def _python_module(file: Path, package: Path) -> tuple[str, ...]:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


# --- both -----------------------------------------------------------------------------------------


def _known(name: tuple[str, ...], files: Mapping[tuple[str, ...], Path]) -> tuple[str, ...] | None:
    """The module that a path leads into: the rest of the path is in it."""
    while name and name not in files:
        name = name[:-1]
    return name if name in files else None


def _name(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def _is_generated(file: Path) -> bool:
    return file.name.endswith(GENERATED) or "_proto" in file.parts


def wrong_circles(package: str, graph: Graph, known: frozenset[str]) -> Iterator[str]:
    """What is wrong with the imports of a package, in sentences."""
    large = [circle for circle in circles(graph) if len(circle) > MOST_IN_CIRCLE]
    for circle in large:
        if not circle <= known:
            yield f"{package}: {len(circle)} files import each other: {', '.join(sorted(circle))}"
    for file in sorted(known.difference(*large)):
        yield f"{package}: {file} is in no large circle any more; take it out of KNOWN_CIRCLES"


def wrong_imports_of_native(graph: Graph) -> Iterator[str]:
    """Files that import the native module and should go through those that may, in sentences."""
    for file in sorted(graph):
        imports = any(target.startswith(NATIVE) for target in graph[file])
        if imports and not file.startswith(NATIVE) and file not in MAY_IMPORT_NATIVE:
            yield f"{file} imports modelmesh._core; only {', '.join(sorted(MAY_IMPORT_NATIVE))} may"


def wrong_lengths(lines: Mapping[str, int], known: Iterable[str]) -> Iterator[str]:
    """What is wrong with the lengths of files, in sentences."""
    for file, count in sorted(lines.items()):
        if count > MOST_LINES and file not in known:
            yield f"{file} has {count} lines, {MOST_LINES} are allowed"
    for file in sorted(known):
        if lines.get(file, 0) <= MOST_LINES:
            yield f"{file} is not too long any more; take it out of KNOWN_LONG"


def lengths(root: Path) -> Mapping[str, int]:
    """Lines of all Rust and Python that people write."""
    files = (file for folder in CODE for kind in ("*.rs", "*.py") for file in (root / folder).rglob(kind))
    return {
        _name(root, file): file.read_bytes().count(b"\n")
        for file in files
        if not _is_generated(file) and not _is_kept_elsewhere(file.relative_to(root))
    }


def _is_kept_elsewhere(file: Path) -> bool:
    """What builds, tools and benchmarks leave in folders that git ignores."""
    return any(part.startswith(".") or part in {"target", "node_modules"} for part in file.parts)


def main() -> int:
    """Prints what is wrong."""
    wrong: list[str] = []
    for crate in CRATES:
        wrong += wrong_circles(crate, rust_graph(ROOT / crate / "src"), KNOWN_CIRCLES.get(crate, frozenset()))
    for package in PACKAGES:
        wrong += wrong_circles(package, python_graph(ROOT / package), KNOWN_CIRCLES.get(package, frozenset()))
    wrong += wrong_imports_of_native(python_graph(ROOT / "src/modelmesh"))
    wrong += wrong_lengths(lengths(ROOT), KNOWN_LONG)
    for sentence in wrong:
        print(sentence)  # noqa: T201 - for whoever runs `make check`
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
