"""What the store holds, and its JSON forms.

`registry/` and `vmodels/` are shared with the archived Java project: field names are its own, absent
means default, and unknown fields (among them its `instanceIds` and `failedIn`) survive a rewrite.
The other records are ours. Source: the store chapter of the design notes.

What is decoded here is in its range (`modelmesh.values.bounds`), whatever was written.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from modelmesh.values import bounds
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.memory import NOTHING, Memory
from modelmesh.values.rollout import Rollout, RolloutState
from modelmesh.values.shadow import Shadow
from modelmesh.values.stored import (
    RecordError,
    decode_fields,
    encode_fields,
    enumerated,
    identity,
    measure,
    memory,
    take,
)

DEFAULT_TYPE = "NLCLASSIFIER"
"""What a record without `type` means; kept from the old system."""

WHOLE_PERCENT = 100

OLD_INSTANCE_FIELDS = ("instanceIds", "failedIn", "fails")
"""Of a model's record: what the old system keeps there of its instances, and we elsewhere."""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A registered model. `type`, `path` and `key` never change. Times in epoch milliseconds.

    `minimum_copies`, `maximum_copies` (0: no bound), `pinned` (its copies are not evicted), `unused` (it was never
    called: `last_use_ms` is its place in the eviction order, not a use) and `tenant` (of who registered it) are ours; the
    old system keeps them as it keeps all fields that it does not know.
    """

    type: str
    path: str = ""
    key: str = ""
    auto_delete: bool = False
    references: int = 0
    last_use_ms: int = 0
    last_unload_ms: int = 0
    minimum_copies: int = 0
    maximum_copies: int = 0
    pinned: bool = False
    unused: bool = False
    tenant: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        """The stored form."""
        return encode_fields(
            {
                **self.extras,
                "type": self.type,
                "encKey": self.key,
                "mPath": self.path,
                "autoDel": self.auto_delete,
                "refs": self.references,
                "lu": self.last_use_ms,
                "lul": self.last_unload_ms,
                "minCopies": self.minimum_copies,
                "maxCopies": self.maximum_copies,
                "pin": self.pinned,
                "unused": self.unused,
                "tenant": self.tenant,
            }
        )

    @classmethod
    def decode(cls, value: bytes) -> "ModelRecord":
        """Read the stored form. Raises RecordError."""
        known = decode_fields(value)
        return cls(
            type=take(known, "type", str, "") or DEFAULT_TYPE,
            key=take(known, "encKey", str, ""),
            path=take(known, "mPath", str, ""),
            auto_delete=take(known, "autoDel", bool, default=False),
            references=measure(known, "refs", bounds.COUNT),
            last_use_ms=measure(known, "lu", bounds.TIME_MS),
            last_unload_ms=measure(known, "lul", bounds.TIME_MS),
            minimum_copies=measure(known, "minCopies", bounds.COUNT),
            maximum_copies=measure(known, "maxCopies", bounds.COUNT),
            pinned=take(known, "pin", bool, default=False),
            unused=take(known, "unused", bool, default=False),
            tenant=take(known, "tenant", str, ""),
            extras=MappingProxyType(known),
        )

    def same_attributes(self, other: "ModelRecord") -> bool:
        """Whether both name the same artefact."""
        return (self.type, self.path, self.key) == (other.type, other.path, other.key)

    @property
    def names_old_instances(self) -> bool:
        """Whether it names instances of the old system that hold it or failed to load it."""
        return any(name in self.extras for name in OLD_INSTANCE_FIELDS)

    def without_old_instances(self) -> "ModelRecord":
        """The record when none of those instances is left."""
        extras = {name: value for name, value in self.extras.items() if name not in OLD_INSTANCE_FIELDS}
        return replace(self, extras=extras)

    def used(self, at_ms: int) -> "ModelRecord":
        """After a use at `at_ms`; the last use never decreases."""
        return replace(self.raised(at_ms), unused=self.unused and at_ms <= self.last_use_ms)

    def raised(self, at_ms: int) -> "ModelRecord":
        """With its place in the eviction order raised to `at_ms`, without a use."""
        return replace(self, last_use_ms=max(self.last_use_ms, at_ms))


@dataclass(frozen=True, slots=True)
class VModelRecord:
    """A movable name. A transition is in progress iff `active` and `target` differ.

    `split`, `labels`, `keep`, `kept`, `fallback`, `shadow` and `rollout` are ours. `split`: other models, each with the percent of the calls that it gets;
    `active` gets the rest. `labels`: names of models that a call can choose. `kept`: the models that were active before, the
    latest first, at most `keep`. `fallback`: the model that answers while no copy of the wanted one is ready.
    `shadow`: the model that gets copies of calls. `rollout`: the model whose share is set step by step. The old system keeps them as it keeps all fields that it does not know.
    """

    active: ModelId
    target: ModelId
    owner: str = ""
    failed: bool = False
    split: tuple[tuple[ModelId, int], ...] = ()
    labels: tuple[tuple[str, ModelId], ...] = ()
    keep: int = 0
    kept: tuple[ModelId, ...] = ()
    fallback: ModelId | None = None
    shadow: Shadow | None = None
    rollout: Rollout | None = None
    extras: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        """The stored form."""
        return encode_fields(
            {
                **self.extras,
                "o": self.owner,
                "amid": self.active,
                "tmid": self.target,
                "failed": self.failed,
                "split": dict(self.split),
                "labels": dict(self.labels),
                "keep": self.keep,
                "kept": self.kept,
                "fallback": self.fallback,
                "shadow": self.shadow.fields() if self.shadow is not None else None,
                "rollout": self.rollout.fields() if self.rollout is not None else None,
            }
        )

    @classmethod
    def decode(cls, value: bytes) -> "VModelRecord":
        """Read the stored form. Raises RecordError."""
        known = decode_fields(value)
        active = take(known, "amid", str, "")
        return cls(
            active=ModelId(active),
            target=ModelId(take(known, "tmid", str, "") or active),
            owner=take(known, "o", str, ""),
            failed=take(known, "failed", bool, default=False),
            split=_split(known.pop("split", None) or {}),
            labels=_labels(known.pop("labels", None) or {}),
            keep=measure(known, "keep", bounds.COUNT),
            kept=_models(known.pop("kept", None) or []),
            fallback=ModelId(fallback) if (fallback := take(known, "fallback", str, "")) else None,
            shadow=Shadow.of_fields(known.pop("shadow", None)),
            rollout=Rollout.of_fields(known.pop("rollout", None)),
            extras=MappingProxyType(known),
        )

    @property
    def models(self) -> tuple[ModelId, ...]:
        """Those that it names, each once."""
        chosen = (*(model for model, _ in self.split), *(model for _, model in self.labels), *self.kept)
        fallback = (self.fallback,) if self.fallback is not None else ()
        shadow = (self.shadow.model,) if self.shadow is not None else ()
        return tuple(dict.fromkeys((self.active, self.target, *chosen, *fallback, *shadow)))

    def moved(self, model: ModelId) -> "VModelRecord":
        """With another active model, which gets what the others leave, no share of its own and no copies."""
        before = (self.active, *self.kept) if model != self.active else self.kept
        kept = tuple(dict.fromkeys(one for one in before if one != model))[: self.keep]
        shadow = self.shadow if self.shadow is not None and self.shadow.model != model else None
        moved = replace(
            self, active=model, target=model, failed=False, split=self.split_without(model), kept=kept, shadow=shadow
        )
        return moved.after_rollout_to(model)

    def after_rollout_to(self, model: ModelId) -> "VModelRecord":
        """A rollout ends when the vmodel has moved to a model; that of another one is forgotten, with the share that it has."""
        if self.rollout is None:
            return self
        if self.rollout.model == model:
            promoted = self.rollout.ended(RolloutState.PROMOTED, "the vmodel was moved there")
            return replace(self, rollout=promoted if self.rollout.running else self.rollout)
        split = self.split_without(self.rollout.model) if self.rollout.running else self.split
        return replace(self, split=split, rollout=None)

    def percent_of(self, model: ModelId) -> int:
        """Of the calls that a model gets."""
        if model == self.active:
            return WHOLE_PERCENT - sum(percent for _, percent in self.split)
        return dict(self.split).get(model, 0)

    def split_without(self, model: ModelId) -> tuple[tuple[ModelId, int], ...]:
        """The shares of all other models."""
        return tuple(share for share in self.split if share[0] != model)


class CopyState(enum.Enum):
    """The state of a copy in the store. An unknown word of a later version counts as not ready."""

    LOADING = "loading"
    LOADED = "loaded"

    @classmethod
    def _missing_(cls, value: object) -> "CopyState | None":
        return cls.LOADING if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class CopyRecord:
    """One copy at one instance. `record_revision`: create revision of the model record it was loaded for; `tenant`: of that record."""

    state: CopyState
    since_ms: int
    load_id: LoadId
    size: Memory
    record_revision: Revision
    tenant: str = ""

    def encode(self) -> bytes:
        """The stored form."""
        return encode_fields(
            {
                "state": self.state.value,
                "since": self.since_ms,
                "load": self.load_id,
                "size": self.size.bytes,
                "record": self.record_revision,
                "tenant": self.tenant,
            }
        )

    @classmethod
    def decode(cls, value: bytes) -> "CopyRecord":
        """Read the stored form. Raises RecordError."""
        known = decode_fields(value)
        return cls(
            state=enumerated(CopyState, known, "state"),
            since_ms=measure(known, "since", bounds.TIME_MS),
            load_id=LoadId(identity(known, "load", bounds.LOAD_ID)),
            size=memory(known, "size"),
            record_revision=Revision(identity(known, "record", bounds.REVISION)),
            tenant=take(known, "tenant", str, ""),
        )


class FailureKind(enum.Enum):
    """The probable cause of a failed load, or that a runtime ended during the model's calls.

    An unknown word of a later version counts as a problem of that instance, not of others.
    """

    BAD_MODEL = "bad_model"
    BAD_INSTANCE = "bad_instance"
    LOST_WHILE_LOADING = "lost_while_loading"
    LOST_IN_USE = "lost_in_use"

    @classmethod
    def _missing_(cls, value: object) -> "FailureKind | None":
        return cls.BAD_INSTANCE if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Failed loads of one model at one instance. Believed until `until_ms`."""

    kind: FailureKind
    message: str
    count: int
    since_ms: int
    until_ms: int
    record_revision: Revision

    def believed(self, now_ms: int) -> bool:
        """Whether it still counts; epoch milliseconds."""
        return self.until_ms > now_ms

    def encode(self) -> bytes:
        """The stored form."""
        return encode_fields(
            {
                "kind": self.kind.value,
                "msg": self.message,
                "count": self.count,
                "since": self.since_ms,
                "until": self.until_ms,
                "record": self.record_revision,
            }
        )

    @classmethod
    def decode(cls, value: bytes) -> "FailureRecord":
        """Read the stored form. Raises RecordError."""
        known = decode_fields(value)
        return cls(
            kind=enumerated(FailureKind, known, "kind"),
            message=take(known, "msg", str, ""),
            count=max(1, measure(known, "count", bounds.COUNT)),
            since_ms=measure(known, "since", bounds.TIME_MS),
            until_ms=measure(known, "until", bounds.TIME_MS),
            record_revision=Revision(identity(known, "record", bounds.REVISION)),
        )


@dataclass(frozen=True, slots=True)
class HotCopy:
    """How much one copy is used. `rate`: requests per minute."""

    model: ModelId
    rate: int
    in_flight: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """What an instance publishes about itself.

    `next_victim_use_ms`: last use of the copy that would be evicted next; 0 if none can be.

    `pinned`: in copies that are never evicted.

    `backlog_ms`: how long its loads at work and waiting will take, one after the other; `load_ms`: how long its loads
    commonly take; `worth`: milliseconds that callers would wait in the next minute if a GiB of what would leave next left.
    All three are expectations, and 0 where nothing is known.

    `busyness`: calls at its copies in the last minute; `at_once`: how many were at work at a time, in the mean of that
    minute, in hundredths.
    """

    address: str
    tls_name: str = ""
    started_ms: int = 0
    capacity: Memory = NOTHING
    used: Memory = NOTHING
    reserve: Memory = NOTHING
    pinned: Memory = NOTHING
    default_size: Memory = NOTHING
    copies: int = 0
    next_victim_use_ms: int = 0
    loading_slots: int = 0
    loads: int = 0
    backlog_ms: int = 0
    load_ms: int = 0
    worth: int = 0
    busyness: int = 0
    at_once: int = 0
    labels: tuple[str, ...] = ()
    zone: str = ""
    location: str = ""
    version: str = ""
    draining: bool = False
    runtime_ready: bool = True
    hot: tuple[HotCopy, ...] = ()

    def encode(self) -> bytes:
        """The stored form."""
        return encode_fields(
            {
                "addr": self.address,
                "tls": self.tls_name,
                "start": self.started_ms,
                "cap": self.capacity.bytes,
                "used": self.used.bytes,
                "reserve": self.reserve.bytes,
                "pinned": self.pinned.bytes,
                "unit": self.default_size.bytes,
                "count": self.copies,
                "oldest": self.next_victim_use_ms,
                "slots": self.loading_slots,
                "loads": self.loads,
                "backlog": self.backlog_ms,
                "loadMs": self.load_ms,
                "worth": self.worth,
                "busy": self.busyness,
                "atOnce": self.at_once,
                "labels": list(self.labels),
                "zone": self.zone,
                "loc": self.location,
                "vers": self.version,
                "drain": self.draining,
                "down": not self.runtime_ready,
                "hot": {copy.model: [copy.rate, copy.in_flight, copy.waiting] for copy in self.hot},
            }
        )

    @classmethod
    def decode(cls, value: bytes) -> "MemberRecord":
        """Read the stored form. Raises RecordError."""
        known = decode_fields(value)
        labels = known.pop("labels", [])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise RecordError("labels is not a list of text")
        hot = _hot(known.pop("hot", {}))
        return cls(
            address=take(known, "addr", str, ""),
            tls_name=take(known, "tls", str, ""),
            started_ms=measure(known, "start", bounds.TIME_MS),
            capacity=memory(known, "cap"),
            used=memory(known, "used"),
            reserve=memory(known, "reserve"),
            pinned=memory(known, "pinned"),
            default_size=memory(known, "unit"),
            copies=measure(known, "count", bounds.COUNT),
            next_victim_use_ms=measure(known, "oldest", bounds.TIME_MS),
            loading_slots=measure(known, "slots", bounds.COUNT),
            loads=measure(known, "loads", bounds.COUNT),
            backlog_ms=measure(known, "backlog", bounds.DURATION_MS),
            load_ms=measure(known, "loadMs", bounds.DURATION_MS),
            worth=measure(known, "worth", bounds.COUNT),
            busyness=measure(known, "busy", bounds.COUNT),
            at_once=measure(known, "atOnce", bounds.COUNT),
            labels=tuple(labels),
            zone=take(known, "zone", str, ""),
            location=take(known, "loc", str, ""),
            version=take(known, "vers", str, ""),
            draining=take(known, "drain", bool, default=False),
            runtime_ready=not take(known, "down", bool, default=False),
            hot=hot,
        )


@dataclass(frozen=True, slots=True)
class Member:
    """An instance as the view knows it. `create_revision` orders members: the lowest leads."""

    instance: InstanceId
    record: MemberRecord
    create_revision: Revision


def _split(value: object) -> tuple[tuple[ModelId, int], ...]:
    if not isinstance(value, dict) or not all(type(percent) is int and percent > 0 for percent in value.values()):
        raise RecordError("split is not an object of numbers above 0")
    if sum(value.values()) > WHOLE_PERCENT:
        raise RecordError(f"split gives away {sum(value.values())} percent")
    return tuple((ModelId(model), percent) for model, percent in value.items())


def _labels(value: object) -> tuple[tuple[str, ModelId], ...]:
    if not isinstance(value, dict) or not all(isinstance(model, str) and model for model in value.values()):
        raise RecordError("labels is not an object of model ids")
    return tuple((label, ModelId(model)) for label, model in value.items())


def _models(value: object) -> tuple[ModelId, ...]:
    if not isinstance(value, list) or not all(isinstance(model, str) and model for model in value):
        raise RecordError("kept is not a list of model ids")
    return tuple(dict.fromkeys(map(ModelId, value)))


def _hot(value: object) -> tuple[HotCopy, ...]:
    if not isinstance(value, dict):
        raise RecordError("hot is not an object")
    hot = []
    for model, counts in value.items():
        if not isinstance(counts, list) or len(counts) != 3 or not all(isinstance(count, int) for count in counts):
            raise RecordError("hot does not hold three numbers a model")
        hot.append(HotCopy(ModelId(model), *(bounds.COUNT.clamp(int(count)) for count in counts)))
    return tuple(hot)
