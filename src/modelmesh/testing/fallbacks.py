"""Which model answers a call of the small data plane in Python: the wanted one, or the fallback of its vmodel.

As `crates/core/src/call/fallback.rs`; `tests/contracts/test_dataplane_fallbacks.py` holds both to the same.
"""

import enum
from collections.abc import Awaitable
from dataclasses import dataclass, replace

from modelmesh.testing.attempts import Answer
from modelmesh.testing.called_names import CalledNames
from modelmesh.values.dataplane import DataPlaneEvent, Wanted
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.status import Status

_FAILING = frozenset({Status.UNAVAILABLE, Status.INTERNAL})


class _Stage(enum.Enum):
    UNTRIED = enum.auto()
    COLD = enum.auto()
    FAILED = enum.auto()
    OVER = enum.auto()


@dataclass(slots=True)
class Fallback:
    """How far a call has come with the fallback of its vmodel.

    Attributes:
        model: The fallback, while it answers.
    """

    model: ModelId | None = None
    _stage: _Stage = _Stage.UNTRIED
    _wanted: Answer | None = None

    @property
    def untried(self) -> bool:
        """Whether a ready copy of the fallback may answer."""
        return self._stage is _Stage.UNTRIED

    @property
    def instead(self) -> ModelId | None:
        """The fallback, if it answers because the wanted model failed."""
        return self.model if self._stage is _Stage.FAILED else None

    def leave(self) -> None:
        """The call is looked up again: from now on the wanted model answers."""
        self.model = None
        if self._stage is _Stage.COLD:
            self._stage = _Stage.OVER

    def cold(self, model: ModelId) -> ModelId:
        """No copy of the wanted model is ready, and one of the fallback is. Returns the fallback."""
        self.model, self._stage = model, _Stage.COLD
        return model

    def suspect(self) -> None:
        """A runtime ended or hangs under the call: no other model gets it."""
        if self._stage is not _Stage.FAILED:
            self._stage = _Stage.OVER

    def goes_on(self, answer: Answer, fallback: ModelId | None) -> bool:
        """Whether another model is tried, after one has failed the call for good."""
        if self._stage is _Stage.COLD:
            return True
        if self._stage is _Stage.UNTRIED and answer.status in _FAILING and fallback is not None:
            self.model, self._stage, self._wanted = fallback, _Stage.FAILED, answer
            return True
        return False

    def told(self, answer: Answer, *, failed: bool) -> Answer:
        """What the caller gets."""
        if failed and self._wanted is not None:
            return self._wanted
        return replace(answer, fallback=self.model)


class CalledModels(CalledNames):
    """The part of the small data plane that chooses the model of a call."""

    def _hit(self, model: ModelId, payload: object, *, balanced: bool, may_move: bool) -> Awaitable[Answer] | None:
        raise NotImplementedError

    def _emit_soon(self, event: DataPlaneEvent) -> None:
        raise NotImplementedError

    def _routed(
        self,
        name: ModelId | VModelId,
        label: VModelId | None,
        draw: int,
        fallback: Fallback,
        payload: object,
        balanced: bool,  # noqa: FBT001 - as the caller of the call said
        *,
        may_move: bool,
    ) -> tuple[ModelId, Awaitable[Answer] | None]:
        """The model of a call, and an attempt at a ready copy of it; None: there is none."""
        model = fallback.instead
        if model is None:
            fallback.leave()
            model = self.named(label, draw) if label is not None else ModelId(name)
        attempt = self._hit(model, payload, balanced=balanced, may_move=may_move)
        other = self.fallback_of(label, model) if fallback.untried else None
        if attempt is None and label is not None and other is not None:
            attempt = self._hit(other, payload, balanced=balanced, may_move=may_move)
            if attempt is not None:
                self._emit_soon(Wanted(model, label, other))
                model = fallback.cold(other)
        return model, attempt

    def _told_of_failure(self, label: VModelId, model: ModelId, answer: Answer, fallback: Fallback) -> ModelId:
        """The model that is tried next, after this one has failed."""
        if fallback.instead is None:
            return model
        self.tally_call(label, model, answer.status, 0)
        self._emit_soon(Wanted(model, label, fallback.instead, f"{answer.status.name}: {answer.message}"))
        return fallback.instead
