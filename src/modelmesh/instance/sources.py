"""Where settings come from, and the warnings about names that have no effect.

From strongest to weakest: what the command line gives, the environment, `/etc/environment`, a configuration file.
The file is TOML: the standard library reads it, it has comments, and unlike YAML it never makes a truth of `NO` or a
number of `0x8` by itself. Its keys are the field names of `Settings`; a setting whose value is a JSON document may be
written as a table.
"""

import difflib
import json
import os
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, ValidationError
from pydantic_core import ErrorDetails

from modelmesh.instance.settings import Settings, SettingsError
from modelmesh.values.legacy import without_effect

ENVIRONMENT_FILE = Path("/etc/environment")
"""Lines `NAME=value`, as the old start script read them; derived images set defaults there."""

LARGEST_FILE_BYTES = 1 << 20


def environment_names(field: str) -> tuple[str, ...]:
    """The environment names of a setting: the one to use, then those of old."""
    alias = Settings.model_fields[field].validation_alias
    assert isinstance(alias, AliasChoices)
    return tuple(str(choice) for choice in alias.choices)


def setting_names() -> frozenset[str]:
    """The environment names of all settings, those of old among them."""
    return frozenset(name for field in Settings.model_fields for name in environment_names(field))


def load_settings(
    environment: Mapping[str, str] | None = None, *, config: Path | None = None, **given: Any
) -> Settings:
    """Read the settings; `given` (by field name) wins over the environment, and that over `config`.

    Args:
        environment: None: that of the process, with `/etc/environment` below it.
        config: A TOML file.
        given: By field name; None counts as not given.

    Raises:
        SettingsError: Names every setting that is missing or wrong.
    """
    variables = process_environment() if environment is None else environment
    values = _read_file(config) if config is not None else {}
    from_file = set(values)
    for field in Settings.model_fields:
        for name in environment_names(field):
            if variables.get(name):
                values[field] = variables[name]
                from_file.discard(field)
                break
    for field, value in given.items():
        if value is not None:
            values[field] = value
            from_file.discard(field)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = [_problem(problem, config, from_file) for problem in error.errors()]
        if "KV_STORE is required" in problems and variables.get("ZOOKEEPER"):
            problems.append("ZOOKEEPER is set, but ZooKeeper is no longer supported: move the data to etcd")
        raise SettingsError("; ".join(problems)) from error


def process_environment() -> dict[str, str]:
    """The environment of the process, over that of `/etc/environment`."""
    try:
        text = ENVIRONMENT_FILE.read_text(errors="replace")
    except OSError:
        text = ""
    return {**parse_environment_file(text), **{name: value for name, value in os.environ.items() if value}}


def parse_environment_file(text: str) -> dict[str, str]:
    """The variables of lines `[export ]NAME=value`, the value quoted or not; other lines are ignored."""
    found = {}
    for line in text.splitlines():
        name, separator, value = line.strip().removeprefix("export ").partition("=")
        if separator and name.isidentifier():
            try:
                found[name] = " ".join(shlex.split(value, comments=True))
            except ValueError:  # an unbalanced quote
                found[name] = value
    return found


def remarks(environment: Mapping[str, str] | None = None) -> list[str]:
    """What an operator should know about the variables that are set: old names, names without effect, unknown names."""
    variables = process_environment() if environment is None else environment
    current: dict[str, str] = {}
    for field in Settings.model_fields:
        first, *old = environment_names(field)
        current |= {first: first, **dict.fromkeys(old, first)}
    notes = []
    for name in sorted(variables):
        if not variables[name]:
            continue
        if name in current:
            if current[name] != name:
                overruled = ", which is set and wins" if variables.get(current[name]) else ""
                notes.append(f"{name} is an old name; use {current[name]}{overruled}")
        elif why := without_effect(name):
            notes.append(f"{name} has no effect: {why}")
        elif name.startswith("MM_"):
            notes.append(f"{name} is not a setting{_nearest(name, current)}")
    return notes


def _nearest(name: str, names: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
        if len(content) > LARGEST_FILE_BYTES:
            raise SettingsError(f"{path} is larger than a configuration file can be ({LARGEST_FILE_BYTES} bytes)")
        table = tomllib.loads(content.decode())
    except OSError as error:
        raise SettingsError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # malformed TOML or UTF-8
        raise SettingsError(f"the configuration file {path} is not TOML: {error}") from error
    unknown = [f"{key} is not a setting{_nearest(key, Settings.model_fields)}" for key in sorted(table)
               if key not in Settings.model_fields]  # fmt: skip
    if unknown:
        raise SettingsError(f"{path}: {'; '.join(unknown)}")
    return {field: _as_text(field, value) for field, value in table.items()}


def _as_text(field: str, value: Any) -> Any:
    """A table given for a setting that takes a JSON document becomes that document."""
    if Settings.model_fields[field].annotation is str and isinstance(value, dict | list):
        return json.dumps(value)
    return value


def _problem(problem: ErrorDetails, config: Path | None, from_file: set[str]) -> str:
    text = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return text
    place = str(problem["loc"][0])  # a field, or where that is missing its first environment name
    field = next((field for field in Settings.model_fields if place in (field, *environment_names(field))), place)
    name = f"{config}: {field}" if field in from_file else environment_names(field)[0]
    return f"{name} is required" if problem["type"] == "missing" else f"{name}: {text}"
