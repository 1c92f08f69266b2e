"""Shared code of formats that read a whole file before their library does."""

from pathlib import Path

from modelmesh.runtime.errors import LoadError
from modelmesh.values.status import Status

NUMBERS = ("FP64", "FP32", "FP16", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8", "BOOL")
"""Datatypes that libraries of trees take as numbers."""


def read_model(path: Path) -> bytes:
    """A file's content: what is checked is then what is loaded.

    Raises:
        LoadError: FAILED_PRECONDITION: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path}: cannot be read ({error.strerror})", status=Status.FAILED_PRECONDITION) from error
