"""The check of words finds them in any case, and only whole ones."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "checks"))

import words


def test_a_word_is_found_with_its_line() -> None:
    text = "All is well.\n# Nobody waits, and it is begun anew.\n"
    assert list(words.unusual_words(text)) == [(2, "nobody"), (2, "anew")]


def test_a_part_of_a_word_is_none() -> None:
    assert list(words.unusual_words("renewed outlet gorge borrowed")) == []


def test_none_is_left() -> None:
    assert words.main() == 0
