"""The status of a model: the mesh's answer, the status before, and the time make the new one.

States, reasons and texts are the archived controller's, because people and programs match on them; what it got wrong is
mended (a model that waits for a runtime is not blocked, an unknown status keeps the one before, times stay as long as
what they date). Source: spec/serving-controller.md 1.5.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from modelmesh.declared import Choice, Problem, Verdict
from modelmesh.kubernetes.values import MeshModel, MeshState, MeshTransition, MeshVModel

NO_INSTANCE = "There are no running instances that meet the label requirements of type "
NO_RUNTIME = "[_no_runtime]"
"""How the mesh says that no instance can take a model: the text begins with the one and ends with the other if no
declared runtime could either."""


class State(enum.StrEnum):
    """Of the active or the target model. EMPTY: there is no target but the active model."""

    EMPTY = ""
    PENDING = "Pending"
    STANDBY = "Standby"
    LOADING = "Loading"
    LOADED = "Loaded"
    FAILED = "FailedToLoad"


class Transition(enum.StrEnum):
    """From the active model to the target."""

    UP_TO_DATE = "UpToDate"
    IN_PROGRESS = "InProgress"
    BLOCKED = "BlockedByFailedLoad"
    INVALID = "InvalidSpec"


class Reason(enum.StrEnum):
    """Of the last failure."""

    LOAD_FAILED = "ModelLoadFailed"
    RUNTIME_UNHEALTHY = "RuntimeUnhealthy"
    NO_RUNTIME = "NoSupportingRuntime"
    RUNTIME_UNKNOWN = "RuntimeNotRecognized"
    INVALID = "InvalidPredictorSpec"


_TEXTS = {
    Reason.RUNTIME_UNHEALTHY: "Waiting for supporting runtime Pod to become available",
    Reason.RUNTIME_UNKNOWN: "Specified runtime name not recognized",
    Reason.NO_RUNTIME: "No ServingRuntime supports specified model type and/or protocol",
}
_UNSERVED = {Verdict.NO_RUNTIME: Reason.NO_RUNTIME, Verdict.RUNTIME_UNKNOWN: Reason.RUNTIME_UNKNOWN}
WAITING_FOR_PODS = "Waiting for runtime Pod to become available"
TAKEN = "Predictor already exists with the same name from a different source"


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failure. `location` is the instance where it happened, `time_ms` epoch milliseconds; 0: not known."""

    reason: Reason
    message: str
    model_id: str = ""
    location: str = ""
    time_ms: int = 0


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the model is called; empty: not there."""

    grpc: str = ""
    rest: str = ""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The part of the status that both kinds of resources have."""

    transition: Transition = Transition.UP_TO_DATE
    active: State = State.PENDING
    target: State = State.EMPTY
    available: bool = False
    failure: Failure | None = None
    total_copies: int = 0
    failed_copies: int = 0
    endpoints: Endpoints = Endpoints()


def of_answer(answer: MeshVModel, old: ModelStatus, *, now_ms: int) -> ModelStatus:
    """The status that the mesh's answer means."""
    active, reason, message = _decoded(answer.active, old.active)
    moving = answer.target_id != answer.active_id
    target_model = answer.target if moving else answer.active
    target = State.EMPTY
    if moving:
        target, reason, message = _decoded(answer.target, old.target)
    models = [model for model in (answer.active, answer.target if moving else None) if model is not None]
    copies = [] if reason not in {None, Reason.LOAD_FAILED} else [copy for model in models for copy in model.copies]
    failure = _failure(answer.target_id, target_model, reason, message, old.failure, now_ms)
    return ModelStatus(
        transition=_transition(answer.transition, target, old.transition),
        active=active,
        target=target,
        available=_available(active, failure),
        failure=failure,
        total_copies=len(copies),
        failed_copies=sum(copy.state is MeshState.FAILED for copy in copies),
        endpoints=old.endpoints,
    )


def of_invalid(answer: MeshVModel | None, old: ModelStatus, problems: Sequence[Problem], *, now_ms: int) -> ModelStatus:
    """The spec is wrong; the model that is there, if one is, continues serving."""
    message = "; ".join(
        f"{problem.path}: {problem.message}" if problem.path else problem.message for problem in problems
    )
    failure = _dated(Failure(Reason.INVALID, message), old.failure, now_ms)
    standing = of_answer(answer, old, now_ms=now_ms) if answer is not None else replace(old, available=False)
    available = answer is not None and _available(standing.active, None)
    return replace(standing, transition=Transition.INVALID, failure=failure, available=available)


def of_no_pods(old: ModelStatus, model_id: str, *, now_ms: int) -> ModelStatus:
    """No instance of the mesh can be called."""
    failure = _dated(Failure(Reason.RUNTIME_UNHEALTHY, WAITING_FOR_PODS, model_id), old.failure, now_ms)
    transition = Transition.UP_TO_DATE if old.transition is Transition.INVALID else old.transition
    return replace(old, transition=transition, failure=failure, available=False)


def of_unserved(new: ModelStatus, old: ModelStatus, model_id: str, choice: Choice, *, now_ms: int) -> ModelStatus:
    """The status of a model that no declared runtime takes.

    The mesh says so only to whoever asks for the load; afterwards it says that the model is not loaded.

    Args:
        new: As the mesh's answer means.
        old: The status before.
        model_id: Of the model that is to be served.
        choice: Which of the declared runtimes take it.
        now_ms: The time.
    """
    reason = _UNSERVED.get(choice.verdict)
    moving = new.target is not State.EMPTY
    if reason is None or (new.target if moving else new.active) not in {State.STANDBY, State.PENDING}:
        return new
    failure = _dated(Failure(reason, _TEXTS[reason], model_id), old.failure, now_ms)
    if moving:
        return replace(new, target=State.FAILED, transition=Transition.BLOCKED, failure=failure)
    return replace(new, active=State.FAILED, failure=failure, available=False)


def of_taken(old: ModelStatus, model_id: str, *, now_ms: int) -> ModelStatus:
    """The name belongs to a vmodel of another owner."""
    return replace(old, failure=_dated(Failure(Reason.INVALID, TAKEN, model_id), old.failure, now_ms), available=False)


def wants_load(old: ModelStatus) -> bool:
    """Whether the model is to be loaded when it is set, rather than at its first call. Source: 3.4."""
    waited = old.active is State.LOADING and old.failure is not None and old.failure.reason is Reason.RUNTIME_UNHEALTHY
    return old.active in {State.PENDING, State.FAILED} or old.target is not State.EMPTY or waited


def _decoded(model: MeshModel | None, before: State) -> tuple[State, Reason | None, str]:
    """The state that a model's status means, and the reason and text of its failure."""
    if model is None:
        return State.PENDING, None, ""
    error = model.errors[0] if model.errors else ""
    match model.state:
        case MeshState.NOT_FOUND | MeshState.UNKNOWN:
            return before, None, ""
        case MeshState.FAILED:
            return _failed(error)
        case MeshState.NOT_LOADED:
            state = State.STANDBY
        case MeshState.LOADING:
            state = State.LOADING
        case MeshState.LOADED:
            state = State.LOADED
    return state, Reason.LOAD_FAILED if error else None, error


def _failed(error: str) -> tuple[State, Reason, str]:
    if not error.startswith(NO_INSTANCE):
        return State.FAILED, Reason.LOAD_FAILED, error
    if not error.endswith(NO_RUNTIME):
        return State.LOADING, Reason.RUNTIME_UNHEALTHY, _TEXTS[Reason.RUNTIME_UNHEALTHY]
    pinned = error.removeprefix(NO_INSTANCE).startswith("rt:")
    reason = Reason.RUNTIME_UNKNOWN if pinned else Reason.NO_RUNTIME
    return State.FAILED, reason, _TEXTS[reason]


def _transition(mesh: MeshTransition, target: State, old: Transition) -> Transition:
    match mesh:
        case MeshTransition.DEFINED:
            return Transition.UP_TO_DATE
        case MeshTransition.MOVING:
            return Transition.IN_PROGRESS
        case MeshTransition.FAILED:
            return Transition.IN_PROGRESS if target is State.LOADING else Transition.BLOCKED
        case MeshTransition.NOT_FOUND | MeshTransition.UNKNOWN:
            return Transition.UP_TO_DATE if old is Transition.INVALID else old


def _failure(
    model_id: str, model: MeshModel | None, reason: Reason | None, message: str, old: Failure | None, now_ms: int
) -> Failure | None:
    if model is not None and model.state is MeshState.LOADED:
        return None
    if reason is None:
        return old if old is not None and old.reason is Reason.RUNTIME_UNHEALTHY else None
    if reason is not Reason.LOAD_FAILED:
        return _dated(Failure(reason, message, model_id), old, now_ms)
    failed = next((copy for copy in model.copies if copy.state is MeshState.FAILED), None) if model else None
    if failed is None:
        return _dated(Failure(reason, message, model_id), old, now_ms)
    return Failure(reason, message, model_id, failed.location, failed.since_ms)


def _dated(failure: Failure, old: Failure | None, now_ms: int) -> Failure:
    """With the time since when it is so."""
    if old is not None and old.time_ms and replace(old, time_ms=0) == failure:
        return old
    return replace(failure, time_ms=now_ms)


def _available(active: State, failure: Failure | None) -> bool:
    unhealthy = failure is not None and failure.reason is Reason.RUNTIME_UNHEALTHY
    return active not in {State.EMPTY, State.FAILED} and not unhealthy
