"""Environments: Pythons with packages of their own. A model in one runs in a process of its own.

The operator names each environment and its Python. A model of type `sklearn@old` is a scikit-learn model in the environment `old`.
So whoever registers a model chooses among names, and never names a program.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from modelmesh.runtime.contract import MIB
from modelmesh.runtime.python import PythonFormat

MARK = "@"
"""Between a format and an environment."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
SIZE_FACTOR = 1.5
"""Memory to each byte on disk. Formats compute it from the file, but this one is imported in its environment only."""


@dataclass(frozen=True, slots=True)
class Environment:
    """One of the operator's. `python` is its interpreter."""

    name: str
    python: Path

    @classmethod
    def parse(cls, text: str) -> "Environment":
        """Read `NAME=PYTHON`. Raises ValueError: it has another form, or there is no such program."""
        name, found, python = text.partition("=")
        if not found or NAME.fullmatch(name) is None:
            raise ValueError(
                f"{text!r} is no environment; write it like old=/opt/old/bin/python, the name in lower case"
            )
        path = Path(python)
        if not path.is_absolute() or not path.is_file() or not os.access(path, os.X_OK):
            raise ValueError(f"environment {name}: {python!r} is no program; give the full path of its Python")
        return cls(name, path)


class FormatElsewhere:
    """A format as an environment has it. It is not imported here, so nothing is known of it: it may run code.

    Attributes:
        reference: As `module:Class`.
        environment: Its name.
    """

    suffixes: tuple[str, ...] = ()
    runs_code = True

    def __init__(self, reference: str, environment: str) -> None:
        self.reference = reference
        self.environment = environment

    def predict_size(self, path: Path) -> int:
        """From the size of what is on disk."""
        if path.name in PythonFormat.suffixes:
            return PythonFormat().predict_size(path)
        return round(SIZE_FACTOR * path.stat().st_size) + MIB

    def load(self, path: Path) -> NoReturn:
        """Never called: its models are loaded in processes."""
        raise NotImplementedError(path)
