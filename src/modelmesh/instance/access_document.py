"""The document `access.yaml`: text to `AccessRules`, or what is wrong with it, each problem with the path of its field.

YAML or JSON. It is read while an instance serves, so reading a large one must be quick: JSON is ten times as quick as YAML.
"""

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from modelmesh.policy.access import (
    ANY,
    GROUP,
    KEY_HASH,
    AccessRules,
    Grant,
    Issuer,
    Tenant,
)
from modelmesh.values.access import Identity, Kind, Listener, Verb
from modelmesh.values.memory import Memory
from modelmesh.values.priority import Priority

MAX_DEPTH = 16
MAX_PROBLEMS = 10
"""Problems that are reported together."""

UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@/-]*$", max_length=256)]
"""Of principals, groups, issuers and tenants. No colon: it parts an issuer from its principals."""
KeyHash = Annotated[str, Field(pattern=rf"^{KEY_HASH}[0-9a-f]{{64}}$")]
Pattern = Annotated[str, Field(pattern=r"^[^*]*\*?$", min_length=1, max_length=2048)]
PriorityWord = Literal["high", "normal", "low"]
Bytes = Annotated[str, Field(pattern=r"^[0-9]+(KiB|MiB|GiB|TiB)?$", max_length=24)] | Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Principal(_Model):
    name: Name
    tenant: Name | None = None
    groups: list[Name] = []
    keys: list[KeyHash] = []
    certificates: list[Annotated[str, Field(min_length=1, max_length=2048)]] = []
    tokens: list[Annotated[str, Field(pattern=r"^[^:]+:.+$", max_length=2048)]] = []
    anonymous: bool = False
    priority: PriorityWord | None = None


class _Issuer(_Model):
    name: Name
    url: Annotated[str, Field(min_length=1, max_length=2048)]
    audience: Annotated[str, Field(min_length=1, max_length=2048)]
    key_set: Annotated[str, Field(pattern=r"^(https://|/).+$", max_length=2048)]
    leeway_s: Annotated[int, Field(ge=0, le=300)] = 60
    principal_claim: Annotated[str, Field(min_length=1, max_length=256)] = "sub"
    groups_claim: Annotated[str, Field(max_length=256)] = ""
    tenant: Name | None = None


class _Grant(_Model):
    to: Annotated[list[Annotated[str, Field(min_length=1, max_length=2300)]], Field(min_length=1)]
    verbs: Annotated[list[Annotated[Verb, Field(strict=False)]], Field(min_length=1)]
    models: list[Pattern] = []
    vmodels: list[Pattern] = []
    listeners: Annotated[list[Annotated[Listener, Field(strict=False)]], Field(min_length=1)] = list(Listener)


class _Tenant(_Model):
    calls_per_second: Annotated[float, Field(gt=0, le=1e9, strict=False)] | None = None
    calls_at_once: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    priority: PriorityWord | None = None
    models: Annotated[int, Field(ge=0)] | None = None
    loaded_bytes: Bytes | None = None


class _Document(_Model):
    principals: list[_Principal] = []
    issuers: list[_Issuer] = []
    grants: list[_Grant] = []
    tenants: dict[Name, _Tenant] = {}


_DOCUMENT: TypeAdapter[_Document] = TypeAdapter(_Document)


if TYPE_CHECKING:
    _Quick = yaml.SafeLoader
else:
    _Quick = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # where its wheel has it


class _Loader(_Quick):
    """Safe YAML in which a key that stands twice is a problem, not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - as the library calls it
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.MarkedYAMLError(None, None, f"{key!r} is here twice", key_node.start_mark)
            seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def parse_access(text: str) -> AccessRules:
    """The rules of a document. Raises ValueError that names every problem by the path of its field, up to ten."""
    document = _validated(_loaded(text))
    problems = _Problems()
    principals: dict[str, Identity] = {}
    keys: dict[str, str] = {}
    certificates: dict[str, str] = {}
    tokens: dict[str, str] = {}
    anonymous = ""
    for number, one in enumerate(document.principals):
        where = f"principals.{number}"
        if one.name in principals:
            problems.add(where, f"the principal {one.name} stands twice")
        principals[one.name] = Identity(one.name, tuple(one.groups), one.tenant or "")
        problems.claim(f"{where}.keys", keys, [key.removeprefix(KEY_HASH) for key in one.keys], one.name)
        problems.claim(f"{where}.certificates", certificates, one.certificates, one.name)
        problems.claim(f"{where}.tokens", tokens, one.tokens, one.name)
        problems.tenant(where, one.tenant, document.tenants)
        if one.anonymous and anonymous:
            problems.add(f"{where}.anonymous", f"{anonymous} is anonymous; one principal may be")
        anonymous = one.name if one.anonymous else anonymous
    issuers = _issuers(document, problems)
    known = _Known(
        frozenset(principals),
        frozenset(group for identity in principals.values() for group in identity.groups),
        frozenset(issuer.name for issuer in issuers),
    )
    for number, grant in enumerate(document.grants):
        _check_grant(f"grants.{number}", grant, known, problems)
    problems.raise_if_any()
    return AccessRules(
        principals,
        keys,
        certificates,
        tokens,
        anonymous,
        issuers,
        tuple(
            Grant(tuple(one.to), frozenset(one.verbs), tuple(one.models), tuple(one.vmodels), frozenset(one.listeners))
            for one in document.grants
        ),
        {name: _tenant(name, one) for name, one in document.tenants.items()},
        {one.name: Priority.parse(one.priority) for one in document.principals if one.priority is not None},
    )


class _Problems:
    """What is wrong with a document beyond the form of its fields."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def add(self, where: str, what: str) -> None:
        self._found.append(f"{where}: {what}")

    def claim(self, where: str, taken: dict[str, str], wanted: list[str], name: str) -> None:
        for number, one in enumerate(wanted):
            if one in taken:
                self.add(f"{where}.{number}", f"it is {taken[one]}'s already; a credential has one principal")
            taken[one] = name

    def tenant(self, where: str, tenant: str | None, tenants: Mapping[str, _Tenant]) -> None:
        if tenant is not None and tenant not in tenants:
            self.add(f"{where}.tenant", f"there is no tenant {tenant}; list it under tenants")

    def raise_if_any(self) -> None:
        """Raises ValueError if there are any."""
        _raise_if_any(self._found)


def _raise_if_any(problems: list[str]) -> None:
    if problems:
        rest = len(problems) - MAX_PROBLEMS
        raise ValueError("; ".join(problems[:MAX_PROBLEMS]) + (f"; and {rest} more" if rest > 0 else ""))


def _loaded(text: str) -> object:
    try:
        if text.lstrip().startswith("{"):
            return json.loads(text, object_pairs_hook=_without_doubles)
        _check_events(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe one
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}" if mark else "the document"
        raise ValueError(f"{where}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"it cannot be read as YAML: {error}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _check_events(text: str) -> None:
    """Refuses what makes little text much data. Raises ValueError."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        wrong = ""
        if isinstance(event, yaml.AliasEvent):
            wrong = "aliases (*name) are not taken; write the value out"
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            wrong = f"it is nested deeper than {MAX_DEPTH}" if depth > MAX_DEPTH else ""
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if wrong:
            raise ValueError(f"line {event.start_mark.line + 1 if event.start_mark else 1}: {wrong}")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{double!r} stands twice in one mapping")
    return found


def _validated(body: object) -> _Document:
    if body is not None and not isinstance(body, dict):
        raise ValueError("the document: it must be a mapping with principals, issuers, grants and tenants")
    try:
        return _DOCUMENT.validate_python(body or {})
    except ValidationError as error:
        _raise_if_any(
            [
                f"{'.'.join(str(part) for part in one['loc']) or 'the document'}: {one['msg']}"
                for one in error.errors(include_input=False, include_url=False)
            ]
        )
        raise


def _issuers(document: _Document, problems: _Problems) -> tuple[Issuer, ...]:
    seen: dict[str, str] = {}
    for number, one in enumerate(document.issuers):
        problems.claim(f"issuers.{number}.name", seen, [f"name {one.name}"], "another issuer")
        problems.claim(f"issuers.{number}.url", seen, [f"url {one.url} for {one.audience}"], "another issuer")
        problems.tenant(f"issuers.{number}", one.tenant, document.tenants)
    return tuple(
        Issuer(
            one.name,
            one.url,
            one.audience,
            one.key_set,
            one.leeway_s,
            one.principal_claim,
            one.groups_claim,
            one.tenant or "",
        )
        for one in document.issuers
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """Names that a grant may be to."""

    principals: frozenset[str]
    groups: frozenset[str]
    issuers: frozenset[str]

    def has(self, to: str) -> bool:
        issuer, colon, _ = to.removeprefix(GROUP).partition(":")
        if to == ANY or (colon and issuer in self.issuers):
            return True
        return to.removeprefix(GROUP) in self.groups if to.startswith(GROUP) else to in self.principals


def _check_grant(where: str, grant: _Grant, known: _Known, problems: _Problems) -> None:
    if not grant.models and not grant.vmodels:
        problems.add(where, f"it names no {Kind.MODEL.value}s and no {Kind.VMODEL.value}s; write models or vmodels")
    for number, to in enumerate(grant.to):
        if not known.has(to):
            what = "group" if to.startswith(GROUP) else "principal"
            problems.add(f"{where}.to.{number}", f"there is no {what} {to.removeprefix(GROUP)}")


def _tenant(name: str, one: _Tenant) -> Tenant:
    return Tenant(
        name,
        one.calls_per_second,
        one.calls_at_once,
        one.models,
        None if one.loaded_bytes is None else Memory(_bytes(one.loaded_bytes)),
        None if one.priority is None else Priority.parse(one.priority),
    )


def _bytes(text: str | int) -> int:
    if isinstance(text, int):
        return text
    digits = text.rstrip("KMGTiB")
    return int(digits) * UNITS[text.removeprefix(digits)]
