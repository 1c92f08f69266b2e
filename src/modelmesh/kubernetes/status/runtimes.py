"""The status of a runtime: whether it is valid, how many pods it has, and why not more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelmesh.declared import Problem
from modelmesh.kubernetes.status.conditions import Condition, merged


@dataclass(frozen=True, slots=True)
class RuntimePods:
    """The Deployment of a runtime. `waits`: why pods do not start, as Kubernetes reports it; empty: it reports nothing."""

    wanted: int = 0
    ready: int = 0
    waits: str = ""


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """The report.

    Attributes:
        off: Why it takes no models by intention; empty: it does.
        why: Why it has as many pods as it has.
        held: Why its Deployment is not updated; empty: it is.
        unread: What must be read first and cannot be; empty: nothing.
        notes: What people should know, as a claim that is missing.
    """

    problems: Sequence[Problem] = ()
    off: str = ""
    pods: RuntimePods = RuntimePods()
    why: str = ""
    held: str = ""
    unread: str = ""
    notes: Sequence[str] = ()


def read_pods(deployment: Mapping[str, Any] | None) -> RuntimePods:
    """What a Deployment says of its pods."""
    if deployment is None:
        return RuntimePods()
    spec, status = deployment.get("spec") or {}, deployment.get("status") or {}
    waits = [
        str(entry.get("message") or entry.get("reason") or "")
        for entry in status.get("conditions") or ()
        if (entry.get("type"), entry.get("status")) in {("Progressing", "False"), ("ReplicaFailure", "True")}
    ]
    replicas = spec.get("replicas")
    return RuntimePods(
        1 if replicas is None else int(replicas), int(status.get("readyReplicas") or 0), "; ".join(waits)
    )


def write_runtime(states: Mapping[str, RuntimeState], old: object, *, generation: int, now_ms: int) -> dict[str, Any]:
    """The whole status of a runtime, from its state in each namespace (one, for a ServingRuntime)."""
    raw: dict[str, Any] = dict(old) if isinstance(old, Mapping) else {}
    pods = [state.pods for state in states.values()]
    raw["pods"] = sum(one.wanted for one in pods)
    raw["readyPods"] = sum(one.ready for one in pods)
    raw["observedGeneration"] = generation
    raw["conditions"] = merged(
        raw.get("conditions"), [_valid(states), _ready(states)], now_ms=now_ms, generation=generation
    )
    return raw


def _valid(states: Mapping[str, RuntimeState]) -> Condition:
    problems = list(dict.fromkeys(problem for state in states.values() for problem in state.problems))
    fatal = any(problem.fatal for problem in problems)
    said = "; ".join(f"{problem.path}: {problem.message}" if problem.path else problem.message for problem in problems)
    return Condition("Valid", not fatal, "InvalidSpec" if fatal else "NotesOnFields" if said else "Valid", said)


def _ready(states: Mapping[str, RuntimeState]) -> Condition:
    conditions = {namespace: _ready_in(state) for namespace, state in sorted(states.items())}
    if len(conditions) == 1:
        return next(iter(conditions.values()))
    bad = [(namespace, one) for namespace, one in conditions.items() if one.status is not True]
    if not bad:
        reason = "PodsReady" if conditions else "NoNamespace"
        return Condition("Ready", True, reason, f"in {len(conditions)} namespaces")  # noqa: FBT003
    message = "; ".join(f"{namespace}: {one.message}" for namespace, one in bad)
    return Condition("Ready", False, bad[0][1].reason, message)  # noqa: FBT003


def _ready_in(state: RuntimeState) -> Condition:
    notes = "".join(f"; {note}" for note in state.notes)
    if any(problem.fatal for problem in state.problems):
        return Condition("Ready", False, "InvalidSpec", "it is not deployed until its problems are mended")  # noqa: FBT003
    if state.off:
        return Condition("Ready", False, "Off", f"it takes no models: {state.off}")  # noqa: FBT003
    if state.unread:
        return Condition("Ready", state.pods.ready > 0, "WaitingForSecret", state.unread)
    if state.held:
        return Condition("Ready", state.pods.ready > 0, "HeldBack", f"{state.held}{notes}")
    if state.pods.wanted == 0:
        return Condition("Ready", True, "ScaledToZero", f"{state.why}{notes}")  # noqa: FBT003
    text = f"{state.pods.ready} of {state.pods.wanted} pods are ready"
    waits = f"; {state.pods.waits}" if state.pods.waits else ""
    reason = "PodsReady" if state.pods.ready >= state.pods.wanted else "WaitingForPods"
    return Condition("Ready", state.pods.ready > 0, reason, f"{text}{waits}{notes}")
