"""Unexpected exceptions, at every await and every callback of a control plane.

An `InjectedError` is a bug that has not been made yet. It is thrown into the background tasks of an
instance where they wait, and raised by what the control plane calls: the store, the runtime, the data plane, whoever
reads the journal.
"""

from collections.abc import Callable, Coroutine, Generator
from random import Random
from typing import Any

from modelmesh.testing.cluster import SimulatedInstance
from modelmesh.values.events import Event


class InjectedError(Exception):
    """Raised by the simulation itself."""


class Raising:
    """Raises in one instance, while it is told to.

    Args:
        instance: Where.
        rng: Draws when.

    Attributes:
        chance: Of raising, at each opportunity.
    """

    def __init__(self, instance: SimulatedInstance, rng: Random) -> None:
        self.chance = 0.0
        self._rng = rng
        tasks = instance.plane.tasks
        start = tasks.start

        def start_raising(work: Coroutine[Any, Any, None], name: str, **given: Any) -> Any:
            return start(self._awaits(work, name), name, **given)

        tasks.start = start_raising  # type: ignore[method-assign]
        dataplane: Any = instance.dataplane
        for name in ("set_routes", "set_vmodels", "set_peers", "resolve", "usage", "end_copy", "runtime_hangs"):
            setattr(dataplane, name, self._calls(getattr(dataplane, name), name))
        instance.plane.journal.subscribe(self._reads)

    def _throws(self) -> bool:
        return self.chance > 0 and self._rng.random() < self.chance

    def _reads(self, event: Event) -> None:
        """A reader of the journal."""
        if event.kind != "sink_failed" and self._throws():
            raise InjectedError(f"while {event.kind} was read")

    def _calls(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def raising(*given: Any, **named: Any) -> Any:
            if self._throws():
                raise InjectedError(f"in {name}")
            return call(*given, **named)

        return raising

    def _awaits(self, work: Coroutine[Any, Any, None], name: str) -> Coroutine[Any, Any, None]:
        return _Driven(work, name, self._throws)


class _Driven(Coroutine[Any, Any, None]):
    """The same work; where it waits, an error may come instead of what it waits for."""

    def __init__(self, work: Coroutine[Any, Any, None], name: str, throws: Callable[[], bool]) -> None:
        self._work = work
        self._name = name
        self._throws = throws
        self._began = False

    def send(self, value: object) -> Any:
        began, self._began = self._began, True
        if began and self._throws():
            return self._work.throw(InjectedError(f"where {self._name} waited"))
        return self._work.send(value)

    def throw(self, *given: Any) -> Any:
        return self._work.throw(*given)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._work.__await__()
