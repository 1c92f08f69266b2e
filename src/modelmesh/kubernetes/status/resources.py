"""The status of a Predictor and of an InferenceService, as their schemas have it. Source: spec/serving-controller.md 1.1, 1.2."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelmesh.declared import Problem
from modelmesh.kubernetes.status.conditions import Condition, merged, shortened, time_ms, time_text
from modelmesh.kubernetes.status.models import (
    Endpoints,
    Failure,
    ModelStatus,
    Reason,
    State,
    Transition,
)

Raw = Mapping[str, Any]

_READY = {
    State.LOADED: "a copy of the model is loaded",
    State.STANDBY: "no copy is loaded; the first call loads one",
    State.LOADING: "a copy is being loaded; calls wait for it",
    State.PENDING: "the model is registered",
}


def read_predictor(status: object) -> ModelStatus:
    """The status of a Predictor; missing or invalid values are as at the beginning."""
    raw = _mapping(status)
    return ModelStatus(
        transition=_one_of(Transition, raw.get("transitionStatus"), Transition.UP_TO_DATE),
        active=_one_of(State, raw.get("activeModelState"), State.PENDING) or State.PENDING,
        target=_one_of(State, raw.get("targetModelState"), State.EMPTY),
        available=raw.get("available") is True,
        failure=_read_failure(raw.get("lastFailureInfo"), "modelId"),
        total_copies=_count(raw.get("totalCopies")),
        failed_copies=_count(raw.get("failedCopies")),
        endpoints=Endpoints(str(raw.get("grpcEndpoint") or ""), str(raw.get("httpEndpoint") or "")),
    )


def write_predictor(
    status: ModelStatus, old: object, problems: Sequence[Problem], *, generation: int, now_ms: int
) -> dict[str, Any]:
    """The whole status of a Predictor. What others wrote into the old one stays."""
    raw: dict[str, Any] = {
        **_mapping(old),
        "transitionStatus": status.transition.value,
        "activeModelState": status.active.value,
        "targetModelState": status.target.value,
        "available": status.available,
        "grpcEndpoint": status.endpoints.grpc,
        "httpEndpoint": status.endpoints.rest,
        "totalCopies": status.total_copies,
        "failedCopies": status.failed_copies,
        "observedGeneration": generation,
    }
    _write_failure(raw, status.failure, "modelId")
    raw["conditions"] = merged(
        raw.get("conditions"),
        [_ready("Ready", status), *_conditions(status, problems)],
        now_ms=now_ms,
        generation=generation,
    )
    return raw


def read_inference_service(status: object) -> ModelStatus:
    """The status of an InferenceService."""
    raw = _mapping(status)
    model = _mapping(raw.get("modelStatus"))
    states, copies = _mapping(model.get("states")), _mapping(model.get("copies"))
    predictor = _mapping(_mapping(raw.get("components")).get("predictor"))
    conditions = raw.get("conditions")
    ready = [
        entry.get("status")
        for entry in (conditions if isinstance(conditions, list) else [])
        if isinstance(entry, Mapping) and entry.get("type") == "PredictorReady"
    ]
    return ModelStatus(
        transition=_one_of(Transition, model.get("transitionStatus"), Transition.UP_TO_DATE),
        active=_one_of(State, states.get("activeModelState"), State.PENDING) or State.PENDING,
        target=_one_of(State, states.get("targetModelState"), State.EMPTY),
        available=ready == ["True"],
        failure=_read_failure(model.get("lastFailureInfo"), "modelRevisionName"),
        total_copies=_count(copies.get("totalCopies")),
        failed_copies=_count(copies.get("failedCopies")),
        endpoints=Endpoints(str(predictor.get("grpcUrl") or ""), str(predictor.get("restUrl") or "")),
    )


def write_inference_service(
    status: ModelStatus, old: object, problems: Sequence[Problem], *, generation: int, now_ms: int
) -> dict[str, Any]:
    """The whole status of an InferenceService. What others wrote into the old one stays."""
    before = _mapping(old)
    model: dict[str, Any] = {
        **_mapping(before.get("modelStatus")),
        "transitionStatus": status.transition.value,
        "states": {"activeModelState": status.active.value, "targetModelState": status.target.value},
        "copies": {"failedCopies": status.failed_copies, "totalCopies": status.total_copies},
    }
    _write_failure(model, status.failure, "modelRevisionName")
    raw: dict[str, Any] = {**before, "modelStatus": model, "observedGeneration": generation}
    addresses = {"url": status.endpoints.grpc, "grpcUrl": status.endpoints.grpc, "restUrl": status.endpoints.rest}
    components = dict(_mapping(before.get("components")))
    predictor = {name: value for name, value in _mapping(components.get("predictor")).items() if name not in addresses}
    components["predictor"] = {**predictor, **{name: text for name, text in addresses.items() if text}}
    raw["components"] = components
    raw.pop("url", None)
    if status.endpoints.grpc:
        raw["url"] = status.endpoints.grpc
    raw["conditions"] = merged(
        before.get("conditions"),
        [_ready("PredictorReady", status), _ready("Ready", status), *_conditions(status, problems)],
        now_ms=now_ms,
    )
    return raw


def _ready(type_: str, status: ModelStatus) -> Condition:
    if status.available:
        return Condition(type_, True, status.active.value, _READY[status.active])  # noqa: FBT003 - as it is called
    if status.failure is not None:
        return Condition(type_, False, status.failure.reason.value, status.failure.message)  # noqa: FBT003
    return Condition(type_, False, "Pending", "the model is not registered with its mesh yet")  # noqa: FBT003


def _conditions(status: ModelStatus, problems: Sequence[Problem]) -> list[Condition]:
    fatal = [problem for problem in problems if problem.fatal]
    said = "; ".join(f"{problem.path}: {problem.message}" if problem.path else problem.message for problem in problems)
    moved = status.transition is Transition.UP_TO_DATE
    message = status.failure.message if status.failure is not None and not moved else ""
    return [
        Condition("Valid", not fatal, "InvalidPredictorSpec" if fatal else "NotesOnFields" if said else "Valid", said),
        Condition("UpToDate", moved, status.transition.value, message),
    ]


def _write_failure(raw: dict[str, Any], failure: Failure | None, model_name: str) -> None:
    raw.pop("lastFailureInfo", None)
    if failure is None:
        return
    found = {
        "reason": failure.reason.value,
        "message": shortened(failure.message),
        model_name: failure.model_id,
        "location": failure.location,
        "time": time_text(failure.time_ms) if failure.time_ms else "",
    }
    raw["lastFailureInfo"] = {name: text for name, text in found.items() if text}


def _read_failure(value: object, model_name: str) -> Failure | None:
    raw = _mapping(value)
    reason = raw.get("reason")
    if reason not in list(Reason):
        return None
    return Failure(
        Reason(reason),
        str(raw.get("message") or ""),
        str(raw.get(model_name) or ""),
        str(raw.get("location") or ""),
        time_ms(raw.get("time")),
    )


def _mapping(value: object) -> Raw:
    return value if isinstance(value, Mapping) else {}


def _one_of(kind: Any, value: object, default: Any) -> Any:
    return kind(value) if value in list(kind) else default


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
