"""The view: what an instance knows about its cluster, as policies receive it."""

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.memory import Memory
from modelmesh.values.records import CopyState, FailureRecord, MemberRecord


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a model at an instance.

    `unlisted`: its key was deleted with its lease, but the instance may still answer; routable as before.
    """

    instance: InstanceId
    state: CopyState
    since_ms: int
    load_id: LoadId
    size: Memory
    record_revision: Revision
    create_revision: Revision
    mod_revision: Revision
    unlisted: bool = False
    tenant: str = ""

    @property
    def ready(self) -> bool:
        """Whether it is loaded, by the store."""
        return self.state is CopyState.LOADED

    def belongs_to(self, record_revision: Revision) -> bool:
        """Whether it was loaded for the record of that create revision.

        A copy known from a store that was replaced (0) belongs to the present record.
        """
        return self.record_revision in {0, record_revision}


@dataclass(frozen=True, slots=True)
class Failure:
    """A remembered failed load."""

    instance: InstanceId
    record: FailureRecord


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model: its copies and failures, by instance id; void ones (of an older record) are left out."""

    model: ModelId
    copies: tuple[Copy, ...] = ()
    failures: tuple[Failure, ...] = ()

    def copy_at(self, instance: InstanceId) -> Copy | None:
        """The copy at `instance`, if there is one."""
        return next((copy for copy in self.copies if copy.instance == instance), None)


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance as a place to load at. `outdated`: its deployment is being replaced."""

    instance: InstanceId
    record: MemberRecord
    reachable: bool = True
    outdated: bool = False
    free: Memory = field(init=False, repr=False, compare=False)
    """Room beyond what is used and kept in reserve. Stored, like `evictable`, because each placement reads it for each instance."""
    evictable: Memory = field(init=False, repr=False, compare=False)
    """The largest model that can be loaded here: what is pinned never makes room."""

    def __post_init__(self) -> None:
        record = self.record
        object.__setattr__(self, "free", record.capacity.beyond(record.reserve + record.used))
        object.__setattr__(self, "evictable", record.capacity.beyond(record.pinned))

    @property
    def available(self) -> bool:
        """Whether loads may be sent here at all."""
        return self.reachable and self.record.runtime_ready and not self.record.draining


@dataclass(frozen=True, slots=True)
class ClusterView:
    """All instances, ordered by id, as of a store revision.

    `loading`: how many copies of each instance are being loaded or wait for it, by their keys and by what was sent there
    from here: an instance publishes its entry once a second, a key at once. Instances that are not named load nothing.
    """

    own: InstanceId
    revision: Revision
    instances: tuple[InstanceView, ...] = ()
    loading: Mapping[InstanceId, int] | None = None

    def loads_at(self, entry: InstanceView) -> int:
        """Loads at work and waiting at an instance."""
        return entry.record.loads if self.loading is None else self.loading.get(entry.instance, 0)

    def instance(self, instance: InstanceId) -> InstanceView | None:
        """One instance, if it is a member."""
        at = bisect.bisect_left(self.instances, instance, key=lambda entry: entry.instance)
        if at < len(self.instances) and self.instances[at].instance == instance:
            return self.instances[at]
        return None

    def with_instance(self, entry: InstanceView) -> "ClusterView":
        """The same cluster with this instance as it is here."""
        at = bisect.bisect_left(self.instances, entry.instance, key=lambda other: other.instance)
        after = at + 1 if at < len(self.instances) and self.instances[at].instance == entry.instance else at
        instances = (*self.instances[:at], entry, *self.instances[after:])
        return ClusterView(self.own, self.revision, instances, self.loading)
