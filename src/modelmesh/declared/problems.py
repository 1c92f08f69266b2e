"""What is wrong with a resource, and reading its fields so that all of it is found at once."""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SHOWN = 60
"""Characters of a wrong value that a message repeats."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_UNICODE = re.compile("[^\\0\ud800-\udfff]*")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        source: Which document, as people find it: `models.yaml:12`.
        resource: `InferenceService iris`; empty if it is not known.
        path: The field, `spec.predictor.model.storageUri`; empty: the document as a whole.
        message: What is wrong, and what would be right.
        fatal: Whether the resource cannot be used. What is not fatal is skipped and reported.
    """

    source: str
    resource: str
    path: str
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        """One line: where, what."""
        named = f"{self.resource}: " if self.resource else ""
        return f"{self.source}: {named}{f'{self.path}: ' if self.path else ''}{self.message}"


@dataclass(slots=True)
class Findings:
    """The problems of one resource, while it is read."""

    source: str
    resource: str = ""
    problems: list[Problem] = field(default_factory=list)

    def add(self, path: str, message: str, *, fatal: bool = True) -> None:
        """Note a problem of a field."""
        self.problems.append(Problem(self.source, self.resource, path, message, fatal))

    @property
    def usable(self) -> bool:
        """Whether nothing fatal was found."""
        return not any(problem.fatal for problem in self.problems)


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping of a resource, its values typed or noted as problems.

    `null` is the same as a field that is not there, as it is for Kubernetes.
    """

    values: Mapping[Any, Any]
    path: str
    findings: Findings

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def at(self, name: str) -> str:
        """The path of a field."""
        if not self.path:
            return name
        return f"{self.path}.{name}" if _PLAIN_KEY.fullmatch(name) else f'{self.path}["{shown(name)}"]'

    def problem(self, name: str, message: str, *, fatal: bool = True) -> None:
        """Note a problem of a field."""
        self.findings.add(self.at(name), message, fatal=fatal)

    def fields(self, name: str) -> "Fields":
        """A mapping; empty if it is not there or is none."""
        return Fields(self._of(name, dict, "a mapping") or {}, self.at(name), self.findings)

    def text(self, name: str, *, required: bool = False) -> str | None:
        """A text; None if it is not there or is none."""
        found: str | None = self._of(name, str, "a text")
        if found is None and required and name not in self:
            self.problem(name, "is required")
        if found is not None and not _UNICODE.fullmatch(found):
            self.problem(name, "holds characters that no text has (surrogates or NUL)")
            return None
        return found

    def flag(self, name: str) -> bool | None:
        """A boolean."""
        found: bool | None = self._of(name, bool, "true or false")
        return found

    def number(self, name: str, *, least: int, most: int) -> int | None:
        """A whole number within bounds."""
        found = self.values.get(name)
        if found is None:
            return None
        if not isinstance(found, int) or isinstance(found, bool):
            self.problem(name, f"must be a whole number, is {shown(found)}")
            return None
        if not least <= found <= most:
            self.problem(name, f"must be {least} to {most}, is {found}")
            return None
        return found

    def texts(self, name: str) -> dict[str, str] | None:
        """A mapping of texts; None if it is not there."""
        if name not in self:
            return None
        inner = self.fields(name)
        found = {}
        for key in inner.values:
            value = inner.text(str(key)) if isinstance(key, str) else None
            if not isinstance(key, str):
                inner.problem(str(key), "the key must be a text")
            elif value is not None:
                found[key] = value
            elif inner.values[key] is None:
                inner.problem(key, "must be a text, is null")
        return found

    def items(self, name: str) -> Iterator["Fields"]:
        """The mappings of a list."""
        for number, value in enumerate(self._of(name, list, "a list") or []):
            path = f"{self.at(name)}[{number}]"
            if isinstance(value, dict):
                yield Fields(value, path, self.findings)
            else:
                self.findings.add(path, f"must be a mapping, is {shown(value)}")

    def strings(self, name: str) -> list[str]:
        """The texts of a list."""
        found = []
        for number, value in enumerate(self._of(name, list, "a list") or []):
            if isinstance(value, str):
                found.append(value)
            else:
                self.findings.add(f"{self.at(name)}[{number}]", f"must be a text, is {shown(value)}")
        return found

    def only(self, known: Collection[str], *, others: bool = False) -> None:
        """Note fields that are not used.

        Args:
            known: Names that mean something.
            others: Further names are normal here; only what is nearly a known name is noted.
        """
        for name in self.values:
            if name in known:
                continue
            near = difflib.get_close_matches(str(name).lower(), [one.lower() for one in known], 1, 0.85)
            meant = next((one for one in known if near and one.lower() == near[0]), None)
            if meant is not None and meant not in self.values:
                self.problem(str(name), f"is not a field; did you mean {meant}?")
            elif not others:
                self.problem(str(name), f"is not a field; known are {', '.join(sorted(known))}")

    def ignored(self, names: Iterable[str], why: str) -> None:
        """Report fields that have no effect."""
        for name in names:
            if name in self:
                self.problem(name, why, fatal=False)

    def _of(self, name: str, kind: type, called: str) -> Any:
        value = self.values.get(name)
        if value is None or isinstance(value, kind):
            return value
        hint = "; put it in quotes" if kind is str and isinstance(value, int | float | bool) else ""
        self.problem(name, f"must be {called}, is {shown(value)}{hint}")
        return None


def shown(value: object) -> str:
    """A value in a message: short, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
