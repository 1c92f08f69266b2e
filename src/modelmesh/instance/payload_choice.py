"""Reads `MM_PAYLOAD_PROCESSORS`: processors separated by spaces, each a URI.

`logger://`, `http://…` or `https://…`; the query is a filter by model, the fragment one by method. Options join
the query with `&`: `vmodel=`, `sample=` (share of the calls), `format=` and `batch=`. Source:
`spec/api-config-tests.md` 4.
"""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

from modelmesh.adapters.payloads.processors import Format
from modelmesh.values.dataplane import Tap
from modelmesh.values.ids import ModelId, VModelId

PROCESSORS_MAX = 64
BATCH_MAX = 1000

_OPTIONS = ("vmodel", "sample", "format", "batch")
_FORMATS: dict[str, Format] = {"modelmesh": "modelmesh", "cloudevents": "cloudevents"}
_ANY_MODEL = frozenset({"", "*", "/", "/*"})
_ANY_METHOD = frozenset({"", "*"})


@dataclass(frozen=True, slots=True)
class ProcessorChoice:
    """One processor. `url` is empty for the logger."""

    url: str
    tap: Tap
    form: Format = "modelmesh"
    batch: int = 1


def parse_processors(text: str) -> tuple[ProcessorChoice, ...]:
    """Read the setting. Raises ValueError; its message names the processor."""
    found = tuple(_processor(uri) for uri in text.split())
    if len(found) > PROCESSORS_MAX:
        raise ValueError(f"there are {len(found)} processors; at most {PROCESSORS_MAX} are possible")
    return found


def _processor(uri: str) -> ProcessorChoice:
    try:
        parts = urlsplit(uri)
        known = parts.scheme == "logger" or (parts.scheme in {"http", "https"} and bool(parts.hostname))
        if known and parts.scheme != "logger":
            _ = parts.port  # raises for one that is no port
    except ValueError as error:
        raise ValueError(f"{uri!r} is no URI: {error}") from error
    if not known:
        raise ValueError(f"{uri!r}: a processor is logger://, http://host… or https://host…")
    options: dict[str, str] = {}
    filters: list[str] = []
    for part in parts.query.split("&"):
        name, separator, value = part.partition("=")
        if separator and name in _OPTIONS:
            options[name] = unquote(value)
        else:
            filters.append(part)
    query = "&".join(filters)
    model, method = unquote(query), unquote(parts.fragment)
    form = _FORMATS.get(options.get("format", "modelmesh"))
    if form is None:
        raise ValueError(f"{uri!r}: format is {options['format']!r}; it must be {' or '.join(_FORMATS)}")
    return ProcessorChoice(
        url="" if parts.scheme == "logger" else urlunsplit((parts.scheme, parts.netloc, parts.path, query, "")),
        tap=Tap(
            model=None if model in _ANY_MODEL else ModelId(model.replace("/", "", 1)),
            vmodel=VModelId(options["vmodel"]) if options.get("vmodel") else None,
            method=None if method in _ANY_METHOD else method.removeprefix("/"),
            fraction=_fraction(uri, options.get("sample", "1")),
        ),
        form=form,
        batch=_batch(uri, options.get("batch", "1")),
    )


def _fraction(uri: str, text: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = -1.0
    if not 0 < fraction <= 1:
        raise ValueError(f"{uri!r}: sample is {text!r}; it must be a number above 0, at most 1")
    return fraction


def _batch(uri: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= BATCH_MAX:
        raise ValueError(f"{uri!r}: batch is {text!r}; it must be a number from 1 to {BATCH_MAX}")
    return int(text)
