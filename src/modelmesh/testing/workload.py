"""What a fleet would be asked to serve: drawn from a named kind of traffic, or read from a file.

The file is CSV with a header: `time_s` and `model` are required, `size` (`512MiB`, `2GiB` or bytes) and `load_s` are
optional and taken from the first row of a model that has them. Rows may stand in any order of time.
"""

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from modelmesh.testing.traces import Trace, bursting, cyclic, scanned, shifting, zipf
from modelmesh.values.sizes import parse_size

LARGEST_FILE_ROWS = 5_000_000
SHORTEST_LOAD_MS = 100


class WorkloadError(ValueError):
    """The workload cannot be read or drawn; the message says where and what would do."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests by time.

    Attributes:
        requests: When (milliseconds from the begin) and for which model, by time.
        sizes: Bytes of each model.
        load_ms: How long each model takes to load.
    """

    name: str
    requests: tuple[tuple[int, str], ...]
    sizes: Mapping[str, int]
    load_ms: Mapping[str, int]

    @property
    def duration_s(self) -> float:
        """From the begin to the last request."""
        return self.requests[-1][0] / 1000


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a workload does not say of its models. `load_speed`: bytes per second."""

    model_bytes: int
    load_speed: int

    def load_ms(self, size_bytes: int) -> int:
        """How long a model of that size takes to load."""
        return max(SHORTEST_LOAD_MS, round(size_bytes * 1000 / self.load_speed))


@dataclass(frozen=True, slots=True)
class Setting:
    """How the text of a setting is read, and what it must be."""

    read: Callable[[str], float]
    what: str


def _flag(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError(text)
    return text == "true"


NUMBER = Setting(float, "a number")
WHOLE = Setting(int, "a whole number")
FLAG = Setting(_flag, "true or false")

KINDS: dict[str, tuple[Callable[..., Trace], dict[str, Setting]]] = {
    "zipf": (zipf, {"skew": NUMBER, "models": WHOLE, "mixed": FLAG}),
    "cyclic": (cyclic, {"models": WHOLE, "mixed": FLAG}),
    "scan": (scanned, {"skew": NUMBER, "share": NUMBER}),
    "shifting": (shifting, {"skew": NUMBER, "every": WHOLE, "by": WHOLE, "mixed": FLAG}),
    "bursting": (bursting, {"skew": NUMBER, "every": WHOLE, "walk": WHOLE}),
    "mixed": (lambda *args, **given: zipf(*args, mixed=True, **given), {"skew": NUMBER, "models": WHOLE}),
}
"""Kinds of drawn traffic, and what may be set of each."""


def drawn(spec: str, *, requests: int, rate: float, seed: int, defaults: Defaults) -> Workload:
    """Draw a workload: `zipf`, or with settings `zipf:skew=1.1,models=500`.

    Args:
        spec: One of `KINDS`, and its settings.
        requests: How many.
        rate: Requests per second; they come at random (Poisson).
        seed: Decides every draw.
        defaults: Size of a model (with mixed sizes: of the smallest) and speed of loading.

    Raises:
        WorkloadError: No such kind, or a setting that it does not have or cannot take.
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        raise WorkloadError(f"{kind!r} is neither a file nor a kind of traffic; kinds are {', '.join(KINDS)}")
    make, known = KINDS[kind]
    given = {}
    for part in filter(None, rest.split(",")):
        name, equals, text = part.partition("=")
        if name not in known or not equals:
            raise WorkloadError(f"{part!r}: of {kind} one may set {', '.join(f'{name}=…' for name in known)}")
        try:
            given[name] = known[name].read(text)
        except ValueError as error:
            raise WorkloadError(f"{part!r}: {text!r} is not {known[name].what}") from error
        if not 0 <= given[name] <= 1_000_000 or (known[name] is WHOLE and given[name] < 1):
            raise WorkloadError(f"{part!r}: it must be between 1 and a million")
    trace = make(spec, seed, length=requests, **given)
    rng = Random(seed)  # noqa: S311 - a simulation
    now_ms, timed = 0.0, []
    for model in trace.requests:
        now_ms += rng.expovariate(rate) * 1000
        timed.append((round(now_ms), f"model-{model}"))
    sizes = {f"model-{model}": size * defaults.model_bytes for model, size in trace.sizes.items()}
    load_ms = {model: defaults.load_ms(size) for model, size in sizes.items()}
    return Workload(spec, tuple(timed), sizes, load_ms)


def read_csv(path: Path, *, defaults: Defaults) -> Workload:
    """Read a file as the module's docstring says.

    Raises:
        WorkloadError: It cannot be read, or a row is malformed; the message names the row.
    """
    sizes: dict[str, int] = {}
    load_ms: dict[str, int] = {}
    requests: list[tuple[int, str]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = {"time_s", "model"} - set(rows.fieldnames or ())
            if missing:
                raise WorkloadError(
                    f"{path}: the header lacks {', '.join(sorted(missing))}; it is time_s,model[,size[,load_s]]"
                )
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                model = (row["model"] or "").strip()
                if not model:
                    raise WorkloadError(f"{where}: model is empty")
                requests.append((round(_seconds(row["time_s"], where, "time_s") * 1000), model))
                if row.get("size") and model not in sizes:
                    sizes[model] = _size(row["size"], where)
                if row.get("load_s") and model not in load_ms:
                    load_ms[model] = round(_seconds(row["load_s"], where, "load_s") * 1000)
                if len(requests) > LARGEST_FILE_ROWS:
                    raise WorkloadError(f"{path}: more than {LARGEST_FILE_ROWS} rows; give a part of it")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WorkloadError(f"{path} cannot be read: {error}") from error
    if not requests:
        raise WorkloadError(f"{path} has no requests")
    requests.sort()
    first_ms = requests[0][0]
    for _, model in requests:
        sizes.setdefault(model, defaults.model_bytes)
        load_ms.setdefault(model, defaults.load_ms(sizes[model]))
    return Workload(path.name, tuple((at - first_ms, model) for at, model in requests), sizes, load_ms)


def _seconds(text: str | None, where: str, name: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e9:
        raise WorkloadError(f"{where}: {name} is {text!r}; seconds are expected, like 12.5")
    return value


def _size(text: str, where: str) -> int:
    try:
        return max(1, parse_size(text))
    except ValueError as error:
        raise WorkloadError(f"{where}: {error}") from error
