"""The layout of keys in the store.

`registry/`, `vmodels/` and `config/` are shared with the archived Java project, byte for byte.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

from modelmesh.values.ids import InstanceId, ModelId, VModelId

PARSED = 256
"""Keys remembered as parsed: a change passes through many hands, and each asks what its key is."""


@dataclass(frozen=True, slots=True)
class RegistryKey:
    """A model's record."""

    model: ModelId


@dataclass(frozen=True, slots=True)
class VModelKey:
    """A vmodel's record."""

    vmodel: VModelId


@dataclass(frozen=True, slots=True)
class MemberKey:
    """An instance's entry."""

    instance: InstanceId


@dataclass(frozen=True, slots=True)
class CopyKey:
    """A copy."""

    model: ModelId
    instance: InstanceId


@dataclass(frozen=True, slots=True)
class FailureKey:
    """A remembered failure."""

    model: ModelId
    instance: InstanceId


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """A live setting."""

    name: str


@dataclass(frozen=True, slots=True)
class TenantKey:
    """That a tenant registered a model."""

    tenant: str
    model: ModelId


@dataclass(frozen=True, slots=True)
class AliveKey:
    """The identity of the store."""


ParsedKey = RegistryKey | VModelKey | MemberKey | CopyKey | FailureKey | ConfigKey | TenantKey | AliveKey


class Keys:
    """Builds and parses the keys of one cluster: `<root>/<prefix>/<service>/…`."""

    def __init__(self, *, root: str, prefix: str, service: str) -> None:
        self.base = f"{root}/{prefix}/{service}/"
        self.alive = f"{self.base}alive"
        self.members = f"{self.base}members/"
        self.copies = f"{self.base}copies/"
        self.failures = f"{self.base}failures/"
        self.config = f"{self.base}config/"
        self.registry = f"{self.base}registry/"
        self.vmodels = f"{self.base}vmodels/"
        self.tenants = f"{self.base}tenants/"
        self.old_instances = f"{self.base}instances/"
        """Where instances of the old system have their entries, if any runs beside us."""
        self.parse: Callable[[str], ParsedKey | None] = lru_cache(PARSED)(self._parse)
        """What a key is; None for keys that are not ours."""

    def model(self, model: ModelId) -> str:
        """`registry/<model>`, the id as it is."""
        return self.registry + model

    def vmodel(self, vmodel: VModelId) -> str:
        """`vmodels/<vmodel>`, the id as it is."""
        return self.vmodels + vmodel

    def tenant_model(self, tenant: str, model: ModelId) -> str:
        """`tenants/<tenant>/<model>`, the tenant quoted."""
        return f"{self.tenants}{quote(tenant, safe='')}/{model}"

    def member(self, instance: InstanceId) -> str:
        """`members/<iid>`."""
        return self.members + instance

    def copies_of(self, model: ModelId) -> str:
        """The range of a model's copies; the id is quoted, so that no id is a prefix of another's range."""
        return f"{self.copies}{quote(model, safe='')}/"

    def copy(self, model: ModelId, instance: InstanceId) -> str:
        """`copies/<model>/<iid>`."""
        return self.copies_of(model) + instance

    def failure(self, model: ModelId, instance: InstanceId) -> str:
        """`failures/<model>/<iid>`."""
        return f"{self.failures}{quote(model, safe='')}/{instance}"

    def _parse(self, key: str) -> ParsedKey | None:
        if not key.startswith(self.base):
            return None
        kind, slash, rest = key[len(self.base) :].partition("/")
        if not slash:
            return AliveKey() if kind == "alive" else None
        if not rest:
            return None
        return _of_kind(kind, rest)


def _of_kind(kind: str, rest: str) -> ParsedKey | None:
    if kind == "registry":
        return RegistryKey(ModelId(rest))
    if kind == "vmodels":
        return VModelKey(VModelId(rest))
    if kind == "members":
        return MemberKey(InstanceId(sys.intern(rest)))
    if kind == "tenants":
        tenant, slash, of = rest.partition("/")
        return TenantKey(unquote(tenant), ModelId(of)) if slash and of else None
    if kind == "config":
        return ConfigKey(rest)
    if kind in {"copies", "failures"}:
        model, slash, instance = rest.partition("/")
        if not slash or not instance or "/" in instance:
            return None
        make = CopyKey if kind == "copies" else FailureKey
        return make(ModelId(unquote(model)), InstanceId(sys.intern(instance)))
    return None
