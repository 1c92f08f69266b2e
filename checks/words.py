"""Words that readers stumble over do not come back into code and pages. `make check` runs it.

CONTRIBUTING.md has the style, and what to write instead. Only words without a right use here are listed.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = (("src/modelmesh", "*.py"), ("src/modelmesh/_core", "*.pyi"), ("crates", "*.rs"), ("docs", "*.md"))
PAGES = ("README.md", "ARCHITECTURE.md", "SECURITY.md")
PASSED_OVER = frozenset({"_proto", "target"})

USUAL = {
    "nobody": "name what does not: no instance, no caller, no process",
    "anybody": "everyone, or every client",
    "whom": "name it",
    "anew": "again",
    "for ever": "forever",
    "in vain": "without success",
    "owed": "name what must be returned",
    "let go": "release, drop or unload",
    "lets go": "releases, drops or unloads",
    "became of": "the result, or where it is now",
    "becomes of": "the result, or where it will be",
    "heard of": "name the message",
    "asks after": "pings",
    "asked after": "pinged",
    "foresee": "plan or predict",
    "foreseen": "planned or predicted",
    "recollect": "remember",
    "wander": "be retried",
}
"""Word: what is usually meant."""

_ANY = re.compile(rf"\b({'|'.join(USUAL)})\b", re.IGNORECASE)


def unusual_words(text: str) -> Iterator[tuple[int, str]]:
    """Each with its line."""
    for number, line in enumerate(text.splitlines(), 1):
        for match in _ANY.finditer(line):
            yield number, match[1].lower()


def files() -> Iterator[Path]:
    """All that people write and strangers read."""
    for folder, kind in PLACES:
        for file in sorted((ROOT / folder).rglob(kind)):
            if not PASSED_OVER.intersection(file.parts):
                yield file
    yield from (ROOT / page for page in PAGES)


def main() -> int:
    """Prints what is wrong."""
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {word!r}; write: {USUAL[word]}"
        for file in files()
        for line, word in unusual_words(file.read_text())
    ]
    for sentence in wrong:
        print(sentence)  # noqa: T201 - for whoever runs `make check`
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
