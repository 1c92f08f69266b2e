"""Copies at instances where their type is not allowed any more, because labels or constraints changed.

They are loaded where the type may be, and only then dropped here; while there is no such place they continue to serve. A
few at a time: a change of constraints must not empty an instance at once.
"""

from modelmesh.control.copies.cache import Cache
from modelmesh.control.copies.entry import DropReason
from modelmesh.control.decide import Decider
from modelmesh.control.journal import Journal
from modelmesh.control.requests.mover import Elsewhere, Mover
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.records import RecordCache
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.records import ModelRecord

AT_ONCE = 4
TRY_AGAIN_TICKS = 5
"""After a refusal: the others read the same document, but not in the same second."""

NO_PLACE_TICKS = 30


class Misplaced:
    """Moves copies of this instance to where their type belongs."""

    def __init__(
        self,
        *,
        own: InstanceId,
        cache: Cache,
        decider: Decider,
        mover: Mover,
        models: RecordCache[ModelId, ModelRecord],
        journal: Journal,
        tasks: Tasks,
    ) -> None:
        self._own = own
        self._cache = cache
        self._decider = decider
        self._mover = mover
        self._models = models
        self._journal = journal
        self._tasks = tasks
        self._moving: dict[ModelId, None] = {}
        self._later: dict[ModelId, int] = {}

    def tick(self) -> None:
        """Look at the copies here; about once a second."""
        constraints = self._decider.constraints
        if not constraints.by_type or self._cache.draining:
            return
        self._later = {model: ticks - 1 for model, ticks in self._later.items() if ticks > 1}
        view = self._decider.cluster_view()
        own = view.instance(self._own)
        assert own is not None
        for model in self._cache.ready():
            if len(self._moving) >= AT_ONCE:
                return
            registered = self._models.cached(model)
            if registered is None or model in self._moving or model in self._later:
                continue
            model_type = registered.record.type
            missing = constraints.missing(model_type, own.record.labels)
            if not missing:
                continue
            allowed = {entry.instance for entry in constraints.allowed(model_type, view.instances)}
            if standing := tuple(place for place in self._cache.others(model) if place[0] in allowed):
                self._journal.note(
                    "drops_copy", model, DropReason.MISPLACED.value, f"this instance lacks [{', '.join(missing)}]"
                )
                self._cache.drop(model, DropReason.MISPLACED, relied_on=standing)
            elif any(entry.available and entry.instance in allowed for entry in view.instances):
                self._moving[model] = None
                self._tasks.start(self._load_elsewhere(model), f"move {model} to where its type belongs")
            else:
                self._later[model] = NO_PLACE_TICKS
                labels = ", ".join(constraints.of(model_type).required)
                self._journal.note("misplaced", model, detail=f"no running instance has [{labels}]; it serves on here")

    async def _load_elsewhere(self, model: ModelId) -> None:
        try:
            if not isinstance(await self._mover.load_elsewhere(model, sync=False), Elsewhere):
                self._later[model] = TRY_AGAIN_TICKS
        finally:
            del self._moving[model]
