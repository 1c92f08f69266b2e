"""The memory that a model takes in a server: measured where possible, and stored by content.

A server in one process keeps memory that models have left, and gives it to the next one. So growth alone says too little:
a model that moved into such room has grown the server by less than it takes. With `slack` bytes of such room before a load
that grew the server by `grew` bytes, the model takes between `grew` and `grew + slack`; without any, exactly `grew`.

The first load of a content can also grow the server by what that keeps for itself, such as packages that the file makes it
import. This shows when the model leaves and comes back: the server shrinks and grows by the same, and by less than at first.
"""

import enum
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

REMEMBERED = 10_000
"""Contents whose sizes are kept."""

LEAST_BYTES = 64 * 1024
"""No server knows a model for less."""

_EXACT_SHARE = 0.1
_EXACT_BYTES = 1024 * 1024
"""Slack up to this share of the growth, or so many bytes, is none worth speaking of."""

_SETTLED_SHARE = 0.1
"""Shrinkage and growth that differ by up to this share of the growth are the same."""

_SEEN_SHARE = 0.5
"""A model of which less than this share shows in the server's memory lives in the room that the server keeps."""

_AGREEING_SHARE = 0.75
"""Growth of this share of what was predicted is taken for the size, although some of the model may be in the slack."""


class Reason(enum.Enum):
    """Where a size comes from."""

    REPORTED = "reported"
    MEASURED = "measured"
    SETTLED = "settled"
    REMEMBERED = "remembered"
    BOUNDED = "bounded"
    PREDICTED = "predicted"


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes that a model takes, and how that is known."""

    size_bytes: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Learned:
    """A size that is worth remembering.

    Attributes:
        model_format: Lower case.
        content: The same for the same files.
        disk_bytes: Of the files; 0: not known.
        size_bytes: Of the model in memory.
        reason: How that is known; never PREDICTED.
    """

    model_format: str
    content: str
    disk_bytes: int
    size_bytes: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Growth:
    """A server's memory over one load, nothing else loading or leaving meanwhile. All in bytes."""

    before: int
    after: int
    slack: int

    @property
    def grew(self) -> int:
        """What came on top."""
        return max(0, self.after - self.before)

    @property
    def is_exact(self) -> bool:
        """Whether the growth is the model's size."""
        return self.slack <= max(_EXACT_BYTES, self.grew * _EXACT_SHARE)


def judge(
    predicted: int,
    *,
    reported: int | None = None,
    growth: Growth | None = None,
    known: int | None = None,
    freed: int | None = None,
) -> Size:
    """The size of a model that was just loaded.

    Args:
        predicted: From its files, or what this content is known to take.
        reported: What the server or the model's own process says.
        growth: What was measured around the load.
        known: What the same content took before.
        freed: What the server shrank by when the same content left.
    """
    if reported is not None and reported > 0:
        return Size(max(reported, LEAST_BYTES), Reason.REPORTED)
    if growth is not None and growth.is_exact and growth.grew > 0:
        measured = growth.grew if known is None else (growth.grew + known) // 2
        return Size(max(measured, LEAST_BYTES), Reason.MEASURED)
    if growth is not None and known is not None and freed is not None and _is_settled(growth.grew, freed, known):
        return Size(max(growth.grew, LEAST_BYTES), Reason.SETTLED)
    if known is not None:
        return Size(known, Reason.REMEMBERED)
    if growth is not None:
        agrees = growth.grew >= _AGREEING_SHARE * predicted  # the rest is then more likely not the model's
        bounded = growth.grew if agrees else min(predicted, growth.grew + growth.slack)
        return Size(max(bounded, LEAST_BYTES), Reason.BOUNDED)
    return Size(max(predicted, LEAST_BYTES), Reason.PREDICTED)


def _is_settled(grew: int, freed: int, known: int) -> bool:
    """Whether the server shrinks and grows by the same with a model, and by most of what the model was known to take."""
    return min(grew, freed) >= _SEEN_SHARE * known and abs(grew - freed) <= max(_EXACT_BYTES, _SETTLED_SHARE * grew)


@dataclass(slots=True)
class Sizes:
    """Sizes by content, and how much of its files' size a model of each format takes.

    Args:
        factor: Bytes in memory for each byte on disk, for formats of which nothing is known yet.
        default_bytes: For a model with files of unknown size.
        on_learn: Called for each size that is new.
    """

    factor: float
    default_bytes: int
    on_learn: Callable[[Learned], None] | None = None
    _known: "OrderedDict[tuple[str, str], int]" = field(default_factory=OrderedDict)
    _freed: dict[tuple[str, str], int] = field(default_factory=dict)
    _factors: dict[str, float] = field(default_factory=dict)

    def known(self, model_format: str, content: str) -> int | None:
        """What this content took."""
        return self._known.get((model_format, content))

    def freed(self, model_format: str, content: str) -> int | None:
        """What the server shrank by when this content last left, if that was seen."""
        return self._freed.get((model_format, content))

    def left(self, model_format: str, content: str, freed: int) -> None:
        """A model left, alone, and the server shrank by so many bytes."""
        if (model_format, content) in self._known:
            self._freed[model_format, content] = max(0, freed)

    def predicted(self, model_format: str, disk_bytes: int) -> int:
        """What files of this size will take."""
        if disk_bytes <= 0:
            return self.default_bytes
        return int(disk_bytes * self._factors.get(model_format, self.factor))

    def learn(self, model_format: str, content: str, disk_bytes: int, size: Size) -> None:
        """Remember a size; measured ones tell something of their format too."""
        if size.reason is Reason.PREDICTED:
            return
        learned = Learned(model_format, content, disk_bytes, size.size_bytes, size.reason)
        if self.on_learn is not None and self.known(model_format, content) != size.size_bytes:
            self.on_learn(learned)
        self.recall(learned)

    def recall(self, learned: Learned) -> None:
        """As `learn`, of what was learned before."""
        model_format, disk_bytes = learned.model_format, learned.disk_bytes
        key = (model_format, learned.content)
        self._known[key] = learned.size_bytes
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            forgotten, _ = self._known.popitem(last=False)
            self._freed.pop(forgotten, None)
        # Of small models the server's own share is most of the size, and no rule for larger ones.
        if learned.reason in {Reason.REPORTED, Reason.MEASURED, Reason.SETTLED} and disk_bytes >= 16 * LEAST_BYTES:
            seen = learned.size_bytes / disk_bytes
            last = self._factors.get(model_format)
            self._factors[model_format] = seen if last is None else (seen + last) / 2


@dataclass(slots=True)
class Slack:
    """Memory that models have left and the server has kept: a load may move into it without growing the server.

    Attributes:
        left_bytes: At most so much.
    """

    left_bytes: int = 0

    def moved_in(self, size_bytes: int, growth: Growth | None) -> None:
        """A model was loaded: what the server did not grow by came from here."""
        if growth is not None:
            self.left_bytes = max(0, self.left_bytes - max(0, size_bytes - growth.grew))

    def not_a_models(self, size_bytes: int) -> None:
        """So many bytes that were taken for a model's are the server's own: no model moves in there."""
        self.left_bytes = max(0, self.left_bytes - max(0, size_bytes))

    def moved_out(self, size_bytes: int, *, freed: int) -> None:
        """A model has left, and the server shrank by so many bytes."""
        self.left_bytes += max(0, size_bytes - max(0, freed))
