"""Whether this instance should get traffic from outside: the facts behind `modelmesh.policy.readiness`."""

from collections.abc import Callable, Iterable

from modelmesh.control.copies.cache import Cache
from modelmesh.control.copies.runtime_link import RuntimeLink
from modelmesh.control.journal import Journal
from modelmesh.control.view.state import ClusterState
from modelmesh.machines.bootstrap import Bootstrap
from modelmesh.policy.readiness import Condition, ReadinessReason, readiness
from modelmesh.ports import Clock
from modelmesh.values.ids import InstanceId, ModelId

OLD_FAILURE_MS = 1_800_000
"""A model that failed so long ago already is not the fault of an instance that has just started."""


class Ready:
    """Remembers what happened since the start.

    Args:
        alive: Whether every loop runs that this instance needs.
        has_store: Whether the store answers.
        bootstrap_ms: How long after the start failing loads count against this instance.
    """

    def __init__(
        self,
        *,
        state: ClusterState,
        cache: Cache,
        link: RuntimeLink,
        clock: Clock,
        journal: Journal,
        bootstrap_ms: int,
        alive: Callable[[], bool],
        has_store: Callable[[], bool],
    ) -> None:
        self._alive = alive
        self._has_store = has_store
        self._cut_off_since_ms: int | None = None
        self._state = state
        self._cache = cache
        self._link = link
        self._clock = clock
        self._journal = journal
        self._bootstrap = Bootstrap(clock.monotonic_ms() + bootstrap_ms)
        self._drains: dict[InstanceId, int] = {}
        self._opened = False
        self._was_ready = False

    def open(self) -> None:
        """What had to be done before traffic from outside is done."""
        self._opened = True

    def reason(self) -> ReadinessReason:
        """READY, or why not."""
        now_ms = self._clock.monotonic_ms()
        if self._has_store():
            self._cut_off_since_ms = None
        reason = readiness(
            Condition(
                started=self._opened,
                broken=not self._alive(),
                runtime_ready=self._link.ready,
                draining=self._cache.draining,
                loads_fail=self._bootstrap.failing and not self._cache.serves(),
                was_ready=self._was_ready,
                cut_off_ms=None if self._cut_off_since_ms is None else now_ms - self._cut_off_since_ms,
                drains_ms=[now_ms - since_ms for since_ms in self._drains.values()],
            )
        )
        self._was_ready = self._was_ready or reason is ReadinessReason.READY
        return reason

    def pinged(self) -> None:
        """Another instance asks who is here. It does so when our key has disappeared from the store, which it can read."""
        if self._cut_off_since_ms is None and not self._has_store():
            self._cut_off_since_ms = self._clock.monotonic_ms()

    def members_changed(self, instances: Iterable[InstanceId]) -> None:
        """Entries of these instances changed: remember since when others are draining."""
        for instance in instances:
            member = self._state.members.get(instance)
            if member is not None and member.record.draining and instance != self._state.own:
                self._drains.setdefault(instance, self._clock.monotonic_ms())
            else:
                self._drains.pop(instance, None)

    def load_ended(self, model: ModelId, *, failed: bool) -> None:
        """A load here succeeded or failed: count it for the start of this instance."""
        was_failing = self._bootstrap.failing
        if failed:
            self._failed(model)
        else:
            self._bootstrap.loaded(model, now_ms=self._clock.monotonic_ms())
        if self._bootstrap.failing and not was_failing:
            detail = "models that work elsewhere, or most of all, fail to load here: not ready until loads succeed"
            self._journal.note("loads_fail", model, detail=detail)
        elif was_failing and not self._bootstrap.failing:
            self._journal.note("loads_succeed", model, detail="this instance may be ready again")

    def _failed(self, model: ModelId) -> None:
        now_ms = self._clock.now_ms()
        view = self._state.model(model)
        settled_ms = now_ms - self._cache.parameters.load_timeout_ms
        source = self._cache.source(model)
        self._bootstrap.failed(
            model,
            origin=f"{source.type} {source.path.rpartition('/')[0]}" if source is not None else "",
            now_ms=self._clock.monotonic_ms(),
            works_elsewhere=any(
                copy.ready and copy.instance != self._state.own and copy.since_ms <= settled_ms for copy in view.copies
            ),
            failed_before=any(failure.record.since_ms <= now_ms - OLD_FAILURE_MS for failure in view.failures),
            running=self._cache.loads,
        )
