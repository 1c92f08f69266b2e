"""The check of amounts finds numbers where an amount of memory belongs."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "checks"))

import amounts


@pytest.mark.parametrize(
    "source",
    [
        "def admit(size_bytes: int): ...",
        "def admit(*, capacity: int | None = None): ...",
        "def admit(sizes: dict[str, int], default_size: float): ...",
        "async def predicted_size(model: str) -> int: ...",
        "class Room:\n    used_bytes: int = 0",
        "class Room:\n    def __init__(self):\n        self.reserve: int = 0",
    ],
)
def test_a_number_is_found(source: str) -> None:
    assert len(list(amounts.bare_amounts(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def admit(size: Memory, count: int) -> int: ...",
        "def predicted_size(model: str) -> Memory: ...",
        "def decode(payload: bytes): ...",
        "sizes: dict[str, int] = {}",
    ],
)
def test_what_is_right_is_left(source: str) -> None:
    assert list(amounts.bare_amounts(source)) == []


def test_no_number_is_left() -> None:
    assert amounts.main() == 0
