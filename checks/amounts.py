"""Amounts of memory are `values.memory.Memory` where decisions are made, not numbers. `make check` runs it."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src/modelmesh"
FOLDERS = ("policy", "machines", "control")
NUMBERS = frozenset({"machines/eviction_policies.py", "machines/retention.py"})
"""Files that count in numbers, and say why."""

AMOUNT = re.compile(r"(?:.*_)?(?:bytes|memory|size|capacity|reserve)")


def bare_amounts(source: str) -> Iterator[tuple[int, str]]:
    """Parameters, fields and results with the name of an amount and the type of a number, each with its line."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.arg(arg=name, annotation=ast.expr() as kind):
                pass
            case ast.AnnAssign(target=ast.Name(id=name) | ast.Attribute(attr=name), annotation=kind):
                pass
            case (
                ast.FunctionDef(name=name, returns=ast.expr() as kind)
                | ast.AsyncFunctionDef(name=name, returns=ast.expr() as kind)
            ):
                pass
            case _:
                continue
        if AMOUNT.fullmatch(name) and re.search(r"\b(?:int|float)\b", ast.unparse(kind)):
            yield node.lineno, name


def main() -> int:
    """Prints what is wrong."""
    wrong = [
        f"{file.relative_to(PACKAGE)}:{line}: {name} is a number; an amount of memory is values.memory.Memory"
        for folder in FOLDERS
        for file in sorted((PACKAGE / folder).rglob("*.py"))
        if file.relative_to(PACKAGE).as_posix() not in NUMBERS
        for line, name in bare_amounts(file.read_text())
    ]
    for sentence in wrong:
        print(sentence)  # noqa: T201 - for whoever runs `make check`
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
