"""Prints text from outside on a terminal as plain text, without control characters.

Ids, paths and messages come from the users that registered models, or from model servers. They may hold what a terminal takes
for commands, and what rich takes for markup.
"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import typer

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 1 << 20
"""Columns of what is not a terminal: a program that reads a table wants whole words."""


class Words(Protocol):
    """An enumeration of protobuf."""

    def items(self) -> Iterable[tuple[str, Any]]:
        """Its words, and what they are on the wire."""
        ...


def printable(text: str) -> str:
    """The text on one line, with control characters and what is not Unicode written as escapes."""
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def console(*, error: bool = False) -> "Console":
    """A console that takes text as it is: no markup, no emoji codes, no colours of its own choice."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    made = Console(stderr=error, markup=False, emoji=False, highlight=False)
    if not stream.isatty():
        made.width = PIPED_WIDTH
    return made


def word_of(words: "Words", number: int) -> str:
    """The word of an enumeration; its number for one that only later versions know."""
    names = {value: name for name, value in words.items()}
    return names.get(number, f"UNKNOWN_{number}")


def say(text: str, *, error: bool = False) -> None:
    """Print one line."""
    typer.echo(printable(text), err=error)
