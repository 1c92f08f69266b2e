"""Whether bytes are one whole UBJSON value, as XGBoost writes its models.

XGBoost trusts the lengths in such a file: one that was cut off made it ask for all memory of the machine, or
read beyond its end, and the process crashed. Typed arrays are passed over by their length, so that a model of hundreds of
megabytes takes milliseconds.

The format: https://ubjson.org (draft 12), with XGBoost's lengths, which are 64-bit integers (`L`) as a rule.
"""

_WIDTHS = {b"i": 1, b"U": 1, b"I": 2, b"l": 4, b"L": 8, b"d": 4, b"D": 8, b"C": 1, b"Z": 0, b"N": 0, b"T": 0, b"F": 0}
"""Bytes of a value behind its marker."""
_INTEGERS = frozenset((b"i", b"U", b"I", b"l", b"L"))

MAX_DEPTH = 64
"""Containers in containers; a model has fewer than ten."""


class UbjsonError(ValueError):
    """The bytes are no whole UBJSON value; the message has what is missing at which byte."""


def check_ubjson(data: bytes | bytearray) -> None:
    """Raise UbjsonError unless `data` is one value, whole, with nothing behind it."""
    reader = _Reader(data)
    reader.value(reader.marker(), 0)
    if reader.position != len(data):
        raise UbjsonError(f"the value ends at byte {reader.position}, the file at {len(data)}")


class _Reader:
    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data
        self.position = 0

    def marker(self) -> bytes:
        """The byte with the type of the value; no-ops before it are skipped."""
        while True:
            one = self._take(1)
            if one != b"N":
                return one

    def value(self, marker: bytes, depth: int) -> None:
        """Pass over the value behind a marker."""
        if depth > MAX_DEPTH:
            raise UbjsonError(f"more than {MAX_DEPTH} containers in each other at byte {self.position}")
        if marker in {b"S", b"H"}:
            self._skip(self._length())
        elif marker == b"{":
            self._object(depth)
        elif marker == b"[":
            self._array(depth)
        elif marker in _WIDTHS:
            self._skip(_WIDTHS[marker])
        else:
            raise UbjsonError(f"{marker!r} at byte {self.position - 1} begins no value")

    def _object(self, depth: int) -> None:
        while self._peek() != b"}":
            self._skip(self._length())
            self.value(self.marker(), depth + 1)
        self._skip(1)

    def _array(self, depth: int) -> None:
        kind = None
        if self._peek() == b"$":
            self._skip(1)
            kind = self._take(1)
            if self._peek() != b"#":
                raise UbjsonError(f"an array of one type without its length at byte {self.position}")
        if self._peek() != b"#":
            while (marker := self.marker()) != b"]":
                self.value(marker, depth + 1)
            return
        self._skip(1)
        count = self._length()
        if kind in _WIDTHS:
            self._skip(count * _WIDTHS[kind])
            return
        for _ in range(count):
            self.value(self.marker() if kind is None else kind, depth + 1)

    def _length(self) -> int:
        marker = self.marker()
        if marker not in _INTEGERS:
            raise UbjsonError(f"{marker!r} at byte {self.position - 1} is no length")
        found = int.from_bytes(self._take(_WIDTHS[marker]), "big", signed=marker != b"U")
        if found < 0:
            raise UbjsonError(f"a length of {found} at byte {self.position}")
        return found

    def _peek(self) -> bytes:
        return bytes(self._data[self.position : self.position + 1])

    def _take(self, count: int) -> bytes:
        start = self.position
        self._skip(count)
        return bytes(self._data[start : self.position])

    def _skip(self, count: int) -> None:
        if self.position + count > len(self._data):
            raise UbjsonError(f"cut off: {count} bytes are to follow byte {self.position}, {len(self._data)} are all")
        self.position += count
