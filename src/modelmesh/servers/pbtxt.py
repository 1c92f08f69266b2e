"""The text form of protobuf messages, taken apart without their schema: the fields at the top, each as it was written.

A model's `config.pbtxt` is rewritten in two or three of its fields. Without a schema what is not touched stays as it is, a
field that only a later server knows too.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SPACE = re.compile(r"(?:[ \t\r\n\f\v]|#[^\n]*)*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\[[A-Za-z0-9_./]+\]")
_STRING = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'")
_SCALAR = re.compile(r"-?\s*[A-Za-z0-9_.+-]+")
_CLOSING = {"{": "}", "<": ">", "[": "]"}
MAX_DEPTH = 64


class PbtxtError(ValueError):
    """A text is no message; the error has the line."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its name, its value as written, and the whole of it as written."""

    name: str
    value: str
    text: str


def fields_of(text: str) -> list[Field]:
    """The fields of a message, in their order.

    Raises:
        PbtxtError: It is no message.
    """
    return [Field(name, text[start:end], text[begin:end]) for name, begin, start, end in _fields(text, 0, "", 0)]


def _fields(text: str, at: int, closing: str, depth: int) -> Iterator[tuple[str, int, int, int]]:
    """Name, begin, begin of the value and end of each field up to `closing`; the last one's end is where that stands."""
    while True:
        at = _after_space(text, at)
        if text[at : at + 1] == closing:
            return
        found = _NAME.match(text, at)
        if found is None:
            raise PbtxtError(f"line {_line(text, at)}: a field's name was expected")
        begin, at = at, _after_space(text, found.end())
        colon = text[at : at + 1] == ":"
        if colon:
            at = _after_space(text, at + 1)
        elif text[at : at + 1] not in _CLOSING:
            raise PbtxtError(f"line {_line(text, at)}: ':' was expected after {found[0]}")
        end = _value(text, at, depth)
        yield found[0], begin, at, end
        at = _after_space(text, end)
        if text[at : at + 1] in {",", ";"}:
            at += 1


def _value(text: str, at: int, depth: int) -> int:
    """Where a value ends."""
    if depth > MAX_DEPTH:
        raise PbtxtError(f"line {_line(text, at)}: nested deeper than {MAX_DEPTH}")
    opening = text[at : at + 1]
    if opening in {"{", "<"}:
        ends = [end for *_, end in _fields(text, at + 1, _CLOSING[opening], depth + 1)]
        end = _after_space(text, ends[-1] if ends else at + 1)
        if text[end : end + 1] in {",", ";"}:
            end = _after_space(text, end + 1)
        return end + 1
    if opening == "[":
        return _list(text, at + 1, depth)
    found = _STRING.match(text, at)
    if found is None:
        found = _SCALAR.match(text, at)
        if found is None:
            raise PbtxtError(f"line {_line(text, at)}: a value was expected")
        return found.end()
    while (following := _STRING.match(text, _after_space(text, found.end()))) is not None:
        found = following  # texts that follow each other are one
    return found.end()


def _list(text: str, at: int, depth: int) -> int:
    at = _after_space(text, at)
    while text[at : at + 1] != "]":
        at = _after_space(text, _value(text, at, depth + 1))
        if text[at : at + 1] == ",":
            at = _after_space(text, at + 1)
        elif text[at : at + 1] != "]":
            raise PbtxtError(f"line {_line(text, at)}: ',' or ']' was expected")
    return at + 1


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def quoted(text: str) -> str:
    """A text as a value."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(letter, letter) for letter in text) + '"'
