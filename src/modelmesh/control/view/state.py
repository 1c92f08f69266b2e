"""The mirror of the store's shared keys, and the views made of it.

Only `members/`, `copies/` and `failures/` are mirrored. Everything here is synchronous: a batch of
changes goes in, the sets of what changed come out.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from modelmesh.control.view.keys import CopyKey, FailureKey, Keys, MemberKey, ParsedKey, RegistryKey
from modelmesh.ports import Change, ChangeKind, KeyValue
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.memory import NOTHING, Memory
from modelmesh.values.records import CopyRecord, FailureRecord, Member, MemberRecord
from modelmesh.values.stored import RecordError
from modelmesh.values.view import ClusterView, Copy, Failure, InstanceView, ModelView


@dataclass(frozen=True, slots=True)
class LostCopy:
    """A copy that was lost with its instance."""

    model: ModelId
    copy: Copy


@dataclass(slots=True)
class Changed:
    """What a batch of changes touched, in order (dicts as ordered sets)."""

    models: dict[ModelId, None] = field(default_factory=dict)
    members: dict[InstanceId, None] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    own_deleted: list[tuple[ModelId, Revision]] = field(default_factory=list)
    """Our copies whose keys another writer deleted (not lost with our lease), and when."""
    lost: list[LostCopy] = field(default_factory=list)
    """Copies of other instances that were lost with their instance, not removed by a decision."""


class ClusterState:
    """Members, copies and failures as of `revision`, the mod revision of the last change applied."""

    def __init__(self, own: InstanceId, keys: Keys) -> None:
        self.own = own
        self.revision = Revision(0)
        self.members: dict[InstanceId, Member] = {}
        self._keys = keys
        self._copies: dict[ModelId, dict[InstanceId, Copy]] = {}
        self._failures: dict[ModelId, dict[InstanceId, Failure]] = {}
        self._records: dict[ModelId, Revision] = {}
        """Create revision of the record of each model that has copies; 0 once it is unregistered."""
        self._lost_links: dict[InstanceId, None] = {}
        self._places: dict[InstanceId, InstanceView] = {}
        self._instances: tuple[InstanceView, ...] | None = None
        self.loading: dict[InstanceId, int] = {}
        """How many copies of each instance are loading, or wait for it."""
        self.loaded: dict[str, Memory] = {}
        """What the copies of each tenant take that are loaded or loading."""
        self._holders: dict[tuple[str, InstanceId], int] = {}
        """How many copies of a tenant an instance has."""

    # --- reading ------------------------------------------------------------------------------

    def cluster(self) -> ClusterView:
        """The instances. Their tuple is the same as long as none of them changes."""
        if self._instances is None:
            self._instances = tuple(self._places[instance] for instance in sorted(self._places))
        return ClusterView(self.own, self.revision, self._instances)

    def holders(self, tenant: str) -> tuple[InstanceId, ...]:
        """Instances with a copy of a model of the tenant, those with most of them first."""
        held = {instance: self._holders.get((tenant, instance), 0) for instance in self._places}
        return tuple(sorted((one for one, count in held.items() if count), key=lambda one: (-held[one], one)))

    def has_copy(self, model: ModelId, instance: InstanceId) -> bool:
        """Whether an instance has a copy, of any record and in any state."""
        return instance in self._copies.get(model, ())

    def _count(self, before: Copy | None, after: Copy | None) -> None:
        for copy, step in ((before, -1), (after, 1)):
            if copy is None:
                continue
            if copy.tenant:
                loaded = self.loaded.get(copy.tenant, NOTHING) + copy.size * step
                if loaded:
                    self.loaded[copy.tenant] = loaded
                else:
                    self.loaded.pop(copy.tenant, None)
                held = self._holders.get((copy.tenant, copy.instance), 0) + step
                if held > 0:
                    self._holders[copy.tenant, copy.instance] = held
                else:
                    self._holders.pop((copy.tenant, copy.instance), None)
            if not copy.ready:
                count = self.loading.get(copy.instance, 0) + step
                if count > 0:
                    self.loading[copy.instance] = count
                else:
                    self.loading.pop(copy.instance, None)

    def _look_at(self, instance: InstanceId) -> None:
        """What is known of an instance changed."""
        member = self.members.get(instance)
        if member is None:
            self._places.pop(instance, None)
        else:
            reachable = instance == self.own or instance not in self._lost_links
            self._places[instance] = InstanceView(instance, member.record, reachable)
        self._instances = None

    def model(self, model: ModelId) -> ModelView:
        """A model's copies and failures, void ones left out."""
        current = self._records.get(model)
        copies = tuple(
            copy
            for _, copy in sorted(self._copies.get(model, {}).items())
            if current is None or copy.belongs_to(current)
        )
        failures = tuple(
            failure
            for _, failure in sorted(self._failures.get(model, {}).items())
            if current is None or failure.record.record_revision == current
        )
        return ModelView(model, copies, failures)

    def elsewhere(self, model: ModelId) -> bool:
        """Whether another instance has a copy, of any record and in any state."""
        copies = self._copies.get(model)
        return copies is not None and len(copies) > (self.own in copies)

    def own_keys(self) -> dict[ModelId, LoadId]:
        """The keys of this instance's copies, with their loads. O(models with copies)."""
        return {model: copies[self.own].load_id for model, copies in self._copies.items() if self.own in copies}

    def record_revision(self, model: ModelId) -> Revision:
        """Create revision of the record of a model with copies; 0 if it is unregistered or has none."""
        return self._records.get(model, Revision(0))

    def models(self) -> Iterable[ModelId]:
        """Models that have copies."""
        return tuple(self._copies)

    def copies(self) -> Iterator[tuple[ModelId, Copy]]:
        """All copies, by model. Nothing may change while they are read."""
        return ((model, copy) for model, copies in self._copies.items() for copy in copies.values())

    def models_at(self, instances: Collection[InstanceId]) -> Iterable[ModelId]:
        """Models that have copies at one of these instances."""
        if not instances:
            return ()
        return tuple(
            model for model, copies in self._copies.items() if any(instance in copies for instance in instances)
        )

    def failed_models(self) -> Iterable[ModelId]:
        """Models with failures."""
        return tuple(self._failures)

    def leader(self) -> InstanceId | None:
        """The member with the lowest create revision that is not draining."""
        standing = [member for member in self.members.values() if not member.record.draining]
        return min(standing, key=lambda member: member.create_revision).instance if standing else None

    # --- changing -----------------------------------------------------------------------------

    def load(self, items: Iterable[KeyValue], revision: Revision, *, replaced: bool = False) -> Changed:
        """Replace everything by a listing.

        `replaced`: it is another store, so a missing copy is no proof. What others held stays,
        unlisted, until they list themselves again. A listed copy of an instance that had no entry does not: no instance would list it.
        """
        changed = Changed()
        held, entered = dict(self._copies), set(self.members)
        changed.models.update(dict.fromkeys([*self._copies, *self._failures]))
        changed.members.update(dict.fromkeys(self.members))
        self._copies.clear()
        self._failures.clear()
        self.members.clear()
        self._places.clear()
        self._instances = None
        self.loading.clear()
        self.loaded.clear()
        self._holders.clear()
        self._records.clear()
        for item in items:
            self._put(item, changed)
        for model, copies in held.items():
            for instance, copy in copies.items():
                listed = instance in self.members or instance in self._copies.get(model, {})
                if instance == self.own or listed:
                    continue
                if replaced and instance not in self._lost_links and (copy.unlisted or instance in entered):
                    none = Revision(0)
                    unlisted = replace(
                        copy, unlisted=True, record_revision=none, create_revision=none, mod_revision=none
                    )
                    self._copies.setdefault(model, {})[instance] = unlisted
                    self._count(None, unlisted)
                elif not replaced:
                    changed.lost.append(LostCopy(model, copy))  # with its instance, without an event for us
        self.revision = revision
        return changed

    def apply(self, changes: Iterable[Change]) -> Changed:
        """Apply whole revisions of changes."""
        changed = Changed()
        batch = list(changes)
        lost = {
            (change.item.mod_revision, parsed.instance)
            for change in batch
            if change.kind is ChangeKind.DELETE and isinstance(parsed := self._keys.parse(change.item.key), MemberKey)
        }
        for change in batch:
            if change.kind is ChangeKind.PUT:
                self._put(change.item, changed)
            else:
                self._delete(change.item, lost, changed)
            self.revision = max(self.revision, change.item.mod_revision)
        return changed

    def cut_from(self) -> bool:
        """Whether a member that is in the store cannot be reached from here."""
        return any(instance in self.members for instance in self._lost_links)

    def link(self, instance: InstanceId, *, lost: bool) -> Changed:
        """An instance became unreachable or reachable; unlisted copies end with their link."""
        changed = Changed()
        if lost:
            self._lost_links[instance] = None
            self._drop_unlisted(instance, changed)
        else:
            self._lost_links.pop(instance, None)
        self._look_at(instance)
        return changed

    def gone(self, instance: InstanceId) -> Changed:
        """An instance without an entry does not answer: its unlisted copies are lost with it."""
        changed = Changed()
        if instance not in self.members:
            self._drop_unlisted(instance, changed)
        return changed

    def refused(self, model: ModelId, instance: InstanceId) -> Changed:
        """The owner of a copy answers that it does not have it: an unlisted one ends; a listed one waits for its key."""
        changed = Changed()
        copies = self._copies.get(model, {})
        copy = copies.get(instance)
        if copy is not None and copy.unlisted:
            self._remove_copy(model, instance, changed)
        return changed

    def _put(self, item: KeyValue, changed: Changed) -> None:
        parsed = self._keys.parse(item.key)
        try:
            match parsed:
                case RegistryKey(model):  # first, because most changes are of models without a copy
                    if model in self._copies and self._records.get(model) != item.create_revision:
                        self._records[model] = item.create_revision
                        changed.models[model] = None
                case MemberKey(instance):
                    record = MemberRecord.decode(item.value)
                    before = self.members.get(instance)
                    self.members[instance] = Member(instance, record, item.create_revision)
                    self._look_at(instance)
                    if before is None or before.create_revision != item.create_revision:
                        # Its copies were put again before it; what is still unlisted no longer exists.
                        self._drop_unlisted(instance, changed)
                    changed.members[instance] = None
                case CopyKey(model, instance):
                    copy_record = _copy_record(item)
                    known = self._records.get(model, Revision(0))
                    self._records[model] = max(known, copy_record.record_revision)
                    copies = self._copies.setdefault(model, {})
                    before_copy = copies.get(instance)
                    copies[instance] = Copy(
                        instance=instance,
                        state=copy_record.state,
                        since_ms=copy_record.since_ms,
                        load_id=copy_record.load_id,
                        size=copy_record.size,
                        record_revision=copy_record.record_revision,
                        create_revision=item.create_revision,
                        mod_revision=item.mod_revision,
                        tenant=copy_record.tenant,
                    )
                    self._count(before_copy, copies[instance])
                    changed.models[model] = None
                case FailureKey(model, instance):
                    failure = Failure(instance, FailureRecord.decode(item.value))
                    self._failures.setdefault(model, {})[instance] = failure
                    changed.models[model] = None
                case _:
                    pass
        except RecordError as error:
            changed.unreadable.append(f"{item.key}: {error}")
            self._forget(parsed, changed)

    def _forget(self, key: ParsedKey | None, changed: Changed) -> None:
        """The value of a key cannot be read any more: its former value is dropped."""
        match key:
            case MemberKey(instance) if self.members.pop(instance, None) is not None:
                self._look_at(instance)
                changed.members[instance] = None
            case CopyKey(model, instance) if instance in self._copies.get(model, {}):
                self._remove_copy(model, instance, changed)
            case FailureKey(model, instance):
                self._remove_failure(model, instance, changed)
            case _:
                pass

    def _delete(self, item: KeyValue, lost: set[tuple[Revision, InstanceId]], changed: Changed) -> None:
        match self._keys.parse(item.key):
            case MemberKey(instance):
                if self.members.pop(instance, None) is not None:
                    self._look_at(instance)
                    changed.members[instance] = None
            case CopyKey(model, instance):
                with_its_lease = (item.mod_revision, instance) in lost
                self._delete_copy(model, instance, item.mod_revision, changed, with_its_lease=with_its_lease)
            case FailureKey(model, instance):
                self._remove_failure(model, instance, changed)
            case RegistryKey(model) if model in self._copies:
                self._records[model] = Revision(0)
                changed.models[model] = None
            case _:
                pass

    def _delete_copy(
        self, model: ModelId, instance: InstanceId, revision: Revision, changed: Changed, *, with_its_lease: bool
    ) -> None:
        copies = self._copies.get(model, {})
        copy = copies.get(instance)
        if copy is None:
            return
        owner = self.members.get(instance)
        draining = owner is not None and owner.record.draining
        lost = with_its_lease and instance != self.own and not draining
        changed.models[model] = None
        if lost and instance not in self._lost_links:
            copies[instance] = replace(copy, unlisted=True)
            return
        if lost:
            changed.lost.append(LostCopy(model, copy))
        elif instance == self.own and not with_its_lease:
            changed.own_deleted.append((model, revision))
        self._remove_copy(model, instance, changed)

    def _drop_unlisted(self, instance: InstanceId, changed: Changed) -> None:
        for model, copies in tuple(self._copies.items()):
            copy = copies.get(instance)
            if copy is not None and copy.unlisted:
                changed.lost.append(LostCopy(model, copy))
                self._remove_copy(model, instance, changed)

    def _remove_failure(self, model: ModelId, instance: InstanceId, changed: Changed) -> None:
        failures = self._failures.get(model, {})
        failures.pop(instance, None)
        if not failures:
            self._failures.pop(model, None)
        changed.models[model] = None

    def _remove_copy(self, model: ModelId, instance: InstanceId, changed: Changed) -> None:
        copies = self._copies.get(model, {})
        self._count(copies.pop(instance, None), None)
        if not copies:
            self._copies.pop(model, None)
            self._records.pop(model, None)
        changed.models[model] = None


def _copy_record(item: KeyValue) -> CopyRecord:
    """Raises RecordError, also for a copy of a registration that did not exist yet when its key was written."""
    record = CopyRecord.decode(item.value)
    if record.record_revision > item.mod_revision:
        raise RecordError(f"record {record.record_revision} is later than the key itself, {item.mod_revision}")
    return record
