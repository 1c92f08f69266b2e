"""Which models the resources of each namespace ask for, kept as the resources change."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from modelmesh.declared import Declared, Document, ModelSpec, Runtime, declare
from modelmesh.declared.inference_services import DEPLOYMENT_MODE, MESH_MODE
from modelmesh.kubernetes.kinds import INFERENCE_SERVICE, Key, Kind, Object


class Need(NamedTuple):
    """What a model asks of a pod.

    Attributes:
        labels: That the pod must have.
        claim: That has its files; empty: none.
        key: Of the storage Secret, that its files are read with.
    """

    labels: tuple[str, ...]
    claim: str
    key: str


def is_for_mesh(kind: Kind, item: Object | None) -> bool:
    """Whether a resource asks for a model of a mesh: it is there, stays, and does not belong to another system."""
    if item is None or "deletionTimestamp" in item["metadata"]:
        return False
    annotations = item["metadata"].get("annotations") or {}
    return kind is not INFERENCE_SERVICE or annotations.get(DEPLOYMENT_MODE) == MESH_MODE


def read_model(kind: Kind, item: Object, runtimes: Iterable[Runtime] = ()) -> Declared:
    """What a resource asks for, and all that is wrong with it."""
    return declare([Document(f"{kind.name} {item['metadata']['name']}", item)], known=runtimes)


class WantedModels:
    """The needs of namespaces, counted: a runtime looks at kinds of needs, not at models."""

    def __init__(self) -> None:
        self._needs: dict[tuple[Kind, Key], Need] = {}
        self._counts: dict[str, Counter[Need]] = {}

    def changed(self, kind: Kind, key: Key, item: Object | None) -> bool:
        """A resource is now so; whether its namespace has other needs than before. What cannot be read needs nothing."""
        need = None
        if item is not None and is_for_mesh(kind, item):
            wanted = read_model(kind, item).wanted
            need = _need(wanted[0].spec) if wanted else None
        before = self._needs.get((kind, key))
        if need == before:
            return False
        counts = self._counts.setdefault(key.namespace, Counter())
        kinds = set(counts)
        if before is not None:
            counts[before] -= 1
            if not counts[before]:
                del counts[before]
            del self._needs[kind, key]
        if need is not None:
            counts[need] += 1
            self._needs[kind, key] = need
        if not counts:
            del self._counts[key.namespace]
        return set(counts) != kinds

    def needed_in(self, namespace: str, runtime: Runtime) -> bool:
        """Whether a model of a namespace may be placed on a runtime."""
        return any(True for _ in self._of(namespace, runtime))

    def claims(self, namespace: str, runtime: Runtime) -> set[str]:
        """The claims that models name which may be placed on a runtime."""
        return {need.claim for need in self._of(namespace, runtime) if need.claim}

    def storage_keys(self, namespace: str, runtime: Runtime) -> set[str]:
        """The keys of the storage Secret that models name which may be placed on a runtime."""
        return {need.key for need in self._of(namespace, runtime)}

    def _of(self, namespace: str, runtime: Runtime) -> Iterable[Need]:
        return (need for need in self._counts.get(namespace, ()) if set(need.labels) <= runtime.labels)


def _need(spec: ModelSpec) -> Need:
    storage = spec.storage
    parameters = (storage.parameters if storage is not None else None) or {}
    kind = parameters.get("type", "")
    named = (storage.key or storage.s3_secret_key) if storage is not None else None
    # Without a key the puller looks for the default of the type (`modelmesh.storage.model_key`).
    key = named or (f"default_{kind}" if kind else "default")
    return Need(spec.labels, parameters.get("name", "") if kind == "pvc" else "", key)
