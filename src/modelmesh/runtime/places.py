"""Which files may run code: those in places that match the operator's patterns."""

import re
from collections.abc import Sequence

from modelmesh.storage import ModelFiles


class TrustedPlaces:
    """Locations whose files may run code when they are loaded.

    A pattern is a location as it is written in full, in which `*` matches any characters: `s3://models/trusted/*`,
    `hf://my-org/*`. A path in a location never has `.` or `..` as a part, so that it cannot lead out of a pattern.

    Args:
        patterns: Of the operator; none: no file may run code.

    Raises:
        ValueError: A pattern names no kind of location.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self.patterns = tuple(patterns)
        for pattern in patterns:
            if not re.match(r"[a-z0-9]+://", pattern):
                raise ValueError(f"{pattern!r} is no pattern of locations; write it like s3://bucket/folder/*")
        self._compiled = [re.compile(".*".join(map(re.escape, pattern.split("*")))) for pattern in patterns]

    def hold(self, files: ModelFiles) -> bool:
        """Whether the files of a load may run code.

        A place that the one who registers a model has moved elsewhere, by an endpoint or a certificate of their own in the
        model's key, is no place that the operator named.
        """
        return not files.redirected and any(pattern.fullmatch(files.model.text) for pattern in self._compiled)
