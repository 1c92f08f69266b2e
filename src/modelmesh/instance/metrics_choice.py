"""Reads `MM_METRICS` and `MM_INFO_METRICS`.

Source: `spec/api-config-tests.md` 5.1 and 5.3. Text that is no such setting at all ends the start; a back end,
unknown parameter or value turns metrics off and is reported; calls are served either way.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from modelmesh.adapters.telemetry.exposition import InfoMetric

STATSD_PORT = 8126
PROMETHEUS_PORT = 2112
DETAILS = frozenset({"netty", "gc", "bp", "mp", "ma"})
"""Parts of the old process metrics; any of them, or `all`, turns on those of this process."""
INFO_LABELS_MAX = 16

_GRAMMAR = re.compile(r"(?P<kind>[a-z;]+)(?::(?P<parameters>\w+=[^;]+(?:;\w+=[^;]+)*))?")
_INFO_GRAMMAR = re.compile(r"(?P<name>[a-z_:]+);(?P<labels>\w+=\w+(?:,\w+=\w+)*)")


class UnknownChoiceError(ValueError):
    """The setting is well-formed, and asks for what there is not."""


@dataclass(frozen=True, slots=True)
class MetricsChoice:
    """Which back end, and how."""

    kind: Literal["disabled", "statsd", "prometheus"] = "disabled"
    port: int = 0
    full_names: bool = False
    legacy: bool = False
    https: bool = True
    per_model: bool = False
    models_max: int = 1000
    process: bool = True
    warnings: tuple[str, ...] = ()


def check_metrics(text: str) -> str:
    """Raise ValueError if the text is no such setting."""
    if _GRAMMAR.fullmatch(text) is None:
        raise ValueError(
            f"{text!r} is not of the form `disabled`, `statsd:port=8126` or `prometheus:port=2112;scheme=https`"
        )
    return text


def with_port(text: str, port: int) -> str:
    """The setting with another port, if it asks for a listener of its own; else as it is."""
    kind, _, given = text.partition(":")
    if kind != "prometheus":
        return text
    others = [part for part in given.split(";") if part and not part.startswith("port=")]
    return f"{kind}:{';'.join([f'port={port}', *others])}"


def parse_metrics(text: str) -> MetricsChoice:
    """Read the setting. Raises UnknownChoiceError; ValueError if it is none."""
    found = _GRAMMAR.fullmatch(check_metrics(text))
    assert found is not None
    kind, given = found["kind"], found["parameters"]
    parameters = dict(part.split("=", 1) for part in given.split(";")) if given else {}
    match kind:
        case "disabled":
            return MetricsChoice()
        case "statsd":
            choice = MetricsChoice("statsd", STATSD_PORT)
        case "prometheus":
            choice = MetricsChoice("prometheus", PROMETHEUS_PORT)
        case _:
            raise UnknownChoiceError(f"there is no back end {kind!r}; there are statsd, prometheus and disabled")
    for name, value in parameters.items():
        choice = _with(choice, name, value)
    return choice


def _with(choice: MetricsChoice, name: str, value: str) -> MetricsChoice:
    prometheus = choice.kind == "prometheus"
    match name:
        case "port":
            return replace(choice, port=_whole(name, value, 1, 65535))
        case "fq_names":
            return replace(choice, full_names=_truth(name, value))
        case "legacy" if not prometheus:
            return replace(choice, legacy=_truth(name, value))
        case "scheme" if prometheus:
            if value not in {"http", "https"}:
                raise UnknownChoiceError(f"scheme is {value!r}; it must be http or https")
            return replace(choice, https=value == "https")
        case "per_model_metrics" if prometheus:
            return replace(choice, per_model=_truth(name, value))
        case "models_max" if prometheus:
            return replace(choice, models_max=_whole(name, value, 1, 1_000_000))
        case "mem_detail" if prometheus:
            parts = {part.strip() for part in value.split(",")}
            unknown = sorted(parts - DETAILS - {"all", "none"})
            warnings = (f"mem_detail names {', '.join(unknown)}, which there is not",) if unknown else ()
            return replace(choice, process=bool(parts & (DETAILS | {"all"})), warnings=choice.warnings + warnings)
        case _:
            raise UnknownChoiceError(f"{choice.kind} has no parameter {name!r}")


def _whole(name: str, value: str, least: int, most: int) -> int:
    if not value.isascii() or not value.isdigit() or not least <= int(value) <= most:
        raise UnknownChoiceError(f"{name} is {value!r}; it must be a number from {least} to {most}")
    return int(value)


def _truth(name: str, value: str) -> bool:
    if value not in {"true", "false"}:
        raise UnknownChoiceError(f"{name} is {value!r}; it must be true or false")
    return value == "true"


def parse_info(text: str, environment: Mapping[str, str]) -> InfoMetric:
    """Read `name;label=VARIABLE,…`; each label gets the value of an environment variable.

    Raises:
        ValueError: It is not of that form, a variable is not set, or a label is named twice.
    """
    found = _INFO_GRAMMAR.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not of the form `name;label=VARIABLE,label=VARIABLE`")
    pairs = [part.split("=", 1) for part in found["labels"].split(",")]
    if len(pairs) > INFO_LABELS_MAX or len({label for label, _ in pairs}) < len(pairs):
        raise ValueError(f"{text!r} has more than {INFO_LABELS_MAX} labels, or one of them twice")
    missing = [variable for _, variable in pairs if variable not in environment]
    if missing:
        raise ValueError(f"it names the environment variables {', '.join(missing)}, which are not set")
    return InfoMetric(found["name"], tuple((label, environment[variable]) for label, variable in pairs))
