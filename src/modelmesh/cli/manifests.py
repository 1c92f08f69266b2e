"""Manifests on disk: which files are meant, what they declare, and whether they have changed."""

import sys
from collections.abc import Sequence
from pathlib import Path

from modelmesh.cli.text import say
from modelmesh.declared import Declared, Document, Problem, Runtime, declare, read_documents

SUFFIXES = (".yaml", ".yml", ".json")
STDIN = Path("-")
MAX_FILES = 10_000


def files_of(paths: Sequence[Path]) -> tuple[list[Path], list[Problem]]:
    """The files that are meant, a folder's in the order of their names, and what is wrong with the paths."""
    found: list[Path] = []
    problems = []
    for path in paths:
        if path == STDIN or path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
            if not inside:
                problems.append(Problem(str(path), "", "", f"holds no file that ends with {', '.join(SUFFIXES)}"))
            found.extend(inside)
        else:
            problems.append(Problem(str(path), "", "", "no such file or folder"))
    if len(found) > MAX_FILES:
        problems.append(Problem(str(paths[0]), "", "", f"{len(found)} files are more than {MAX_FILES}"))
        return [], problems
    return found, problems


def read_manifests(paths: Sequence[Path], *, known: Sequence[Runtime] = ()) -> Declared:
    """What files declare, with every problem of all of them."""
    files, problems = files_of(paths)
    documents: list[Document] = []
    for file in files:
        try:
            text = sys.stdin.read() if file == STDIN else file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            problems.append(Problem(str(file), "", "", f"cannot be read: {reason}"))
            continue
        read, wrong = read_documents(str(file), text)
        documents.extend(read)
        problems.extend(wrong)
    declared = declare(documents, known=known)
    return Declared(declared.wanted, declared.runtimes, (*problems, *declared.problems), declared.passed_over)


def fingerprint(paths: Sequence[Path]) -> object:
    """A value that changes when a file does."""
    seen = []
    for file in files_of([path for path in paths if path != STDIN])[0]:
        try:
            about = file.stat()
        except OSError:
            continue
        seen.append((str(file), about.st_ino, about.st_mtime_ns, about.st_size))
    return tuple(seen)


def show_problems(declared: Declared) -> None:
    """Print everything that is wrong, and what is passed over, to standard error."""
    for problem in declared.passed_over:
        say(f"note: {problem}", error=True)
    for problem in declared.problems:
        say(f"error: {problem}", error=True)
