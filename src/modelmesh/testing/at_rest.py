"""Nothing changes any more: whatever an instance remembers of the store is what the store has."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace

from modelmesh.control.view.keys import ConfigKey, RegistryKey, VModelKey
from modelmesh.control.view.names import naming_of
from modelmesh.control.view.records import RecordCache
from modelmesh.control.view.state import ClusterState
from modelmesh.ports import KeyValue, Listing, Store
from modelmesh.testing.cluster import KEYS, SimulatedCluster, SimulatedInstance
from modelmesh.values.ids import InstanceId, ModelId, VModelId
from modelmesh.values.records import ModelRecord, VModelRecord

SEEN_WITHIN_MS = 20_000
"""Until then each instance must have seen the newest revision at least once."""


async def caches_equal_the_store(cluster: SimulatedCluster, store: Store) -> None:
    """Raise AssertionError for an instance that remembers what is not so, or sees nothing any more.

    Instances continue telling of themselves, so each is looked at when it has seen all there is.
    """
    left = dict(cluster.instances)
    for _ in range(SEEN_WITHIN_MS // 10):
        listing = await store.range(KEYS.base)
        for name, instance in tuple(left.items()):
            if instance.plane.state.revision == listing.revision:
                del left[name]
                problem = next(differences(name, instance, listing), None)
                assert problem is None, f"at rest: {problem}"
        if not left:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"at rest: {sorted(left)} have not seen the store's newest revision")


def differences(name: InstanceId, instance: SimulatedInstance, listing: Listing) -> Iterator[str]:
    """What an instance that has seen all of a listing remembers otherwise."""
    models: dict[ModelId, KeyValue] = {}
    vmodels: dict[VModelId, KeyValue] = {}
    settings: dict[str, str] = {}
    for item in listing.items:
        match KEYS.parse(item.key):
            case RegistryKey(model):
                models[model] = item
            case VModelKey(vmodel):
                vmodels[vmodel] = item
            case ConfigKey(setting):
                settings[setting] = item.value.decode(errors="replace").strip()
            case _:
                pass
    yield from _view(name, instance, listing)
    yield from _records(f"{name} remembers model", instance.plane.models, models, ModelRecord)
    yield from _records(f"{name} remembers vmodel", instance.plane.vmodel_records, vmodels, VModelRecord)
    yield from _names(name, instance, models, vmodels)
    if instance.plane.config.values != settings:
        yield f"{name} knows the settings {instance.plane.config.values}, stored are {settings}"


def _view(name: InstanceId, instance: SimulatedInstance, listing: Listing) -> Iterator[str]:
    """The view equals a fresh listing."""
    state, fresh = instance.plane.state, ClusterState(name, KEYS)
    fresh.load(listing.items, listing.revision)
    seen = {entry.instance: entry.record for entry in state.cluster().instances}
    there = {entry.instance: entry.record for entry in fresh.cluster().instances}
    if seen != there:
        yield f"{name} sees the members {seen}, listed are {there}"
    for model in dict.fromkeys([*state.models(), *state.failed_models(), *fresh.models(), *fresh.failed_models()]):
        if state.model(model) != fresh.model(model):
            yield f"{name} sees {state.model(model)}, listed is {fresh.model(model)}"
        route = instance.dataplane.route(model)
        remote = {(copy.instance, copy.load_id) for copy in route.remote} if route is not None else set()
        ready = {
            (copy.instance, copy.load_id) for copy in fresh.model(model).copies if copy.ready and copy.instance != name
        }
        if remote != ready:
            yield f"{name} routes {model} to {sorted(remote)}, ready are {sorted(ready)}"


def _records(
    who: str,
    cache: "RecordCache[ModelId, ModelRecord] | RecordCache[VModelId, VModelRecord]",
    stored: Mapping[ModelId, KeyValue] | Mapping[VModelId, KeyValue],
    kind: type[ModelRecord] | type[VModelRecord],
) -> Iterator[str]:
    items: dict[str, KeyValue] = {str(key): item for key, item in stored.items()}
    for known in cache.remembered():
        found = cache.cached(known)  # type: ignore[arg-type]  # one of its own names
        item = items.get(known)
        record = kind.decode(item.value) if item is not None else None
        if found is None or found.record != record:
            yield f"{who} {known} as {found}, stored is {record}"


def _names(
    name: InstanceId,
    instance: SimulatedInstance,
    models: Mapping[ModelId, KeyValue],
    vmodels: Mapping[VModelId, KeyValue],
) -> Iterator[str]:
    for vmodel, naming in instance.dataplane.namings().items():
        item = vmodels.get(vmodel)
        if item is None:
            yield f"{name} sends calls for {vmodel} to {naming}, which is not stored"
            continue
        record = VModelRecord.decode(item.value)
        split = tuple(share for share in record.split if share[0] in models)
        if naming not in {naming_of(record), naming_of(replace(record, split=split))}:
            yield f"{name} sends calls for {vmodel} to {naming}, stored is {record}"
