"""What a pod's status says. Pure, but for the clock of its times."""

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

Object = dict[str, Any]


def now_text() -> str:
    """The time, as Kubernetes writes it."""
    return dt.datetime.fromtimestamp(time.time(), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class ContainerState:
    """The state of a container. `reason` says why it waits; empty: it runs, or has ended."""

    name: str
    image: str
    reason: str = "ContainerCreating"
    message: str = ""
    since: str = ""
    exit_code: int | None = None
    last_exit: int | None = None
    started: bool = False
    ready: bool = False
    restarts: int = 0

    def waits(self, reason: str, message: str) -> "ContainerState":
        """It cannot run now."""
        return replace(self, reason=reason, message=message, started=False, ready=False)

    def runs(self, *, started: bool, ready: bool) -> "ContainerState":
        """Its process has begun."""
        return replace(
            self, reason="", message="", since=now_text(), exit_code=None, started=started, ready=started and ready
        )

    def has_started(self, *, ready: bool) -> "ContainerState":
        """Its startup probe has succeeded."""
        return replace(self, started=True, ready=ready)

    def is_ready(self, verdict: bool) -> "ContainerState":  # noqa: FBT001 - of the probe
        """Its readiness probe has said so."""
        return replace(self, ready=verdict)

    def ended(self, code: int) -> "ContainerState":
        """Its process has ended."""
        code = code if code >= 0 else 128 - code
        return replace(self, reason="", exit_code=code, last_exit=code, started=False, ready=False)

    def again(self) -> "ContainerState":
        """It is started once more."""
        return replace(self, restarts=self.restarts + 1)

    def shown(self) -> Object:
        """As an entry of `containerStatuses`."""
        if self.reason:
            state: Object = {"waiting": {"reason": self.reason, "message": self.message}}
        elif self.exit_code is None:
            state = {"running": {"startedAt": self.since}}
        else:
            state = {"terminated": _terminated(self.exit_code, self.since)}
        found: Object = {
            "name": self.name,
            "image": self.image,
            "imageID": "table",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": state,
        }
        if self.last_exit is not None and "terminated" not in state:
            found["lastState"] = {"terminated": _terminated(self.last_exit, self.since)}
        return found


def pod_status(
    old: Object,
    containers: Sequence[ContainerState],
    init: Sequence[ContainerState],
    *,
    phase: str,
    initialized: bool,
    address: str,
    node_address: str,
    since: str,
    problem: str = "",
) -> Object:
    """The status of a pod. Conditions keep the time of their last change.

    Args:
        old: Its status so far.
        containers: Of the pod.
        init: Its init containers.
        phase: `Pending`, `Running`, `Succeeded` or `Failed`.
        initialized: Whether its init containers have succeeded.
        address: Of the pod.
        node_address: Of the node.
        since: When the node took it.
        problem: Why the node could not run it.
    """
    before = {condition["type"]: condition for condition in old.get("conditions") or []}
    ready = phase == "Running" and all(container.ready for container in containers)
    values = {"PodScheduled": True, "Initialized": initialized, "ContainersReady": ready, "Ready": ready}

    def condition(name: str) -> Object:
        value = str(values[name])
        same = before.get(name, {}).get("status") == value
        return {
            "type": name,
            "status": value,
            "lastTransitionTime": before[name]["lastTransitionTime"] if same else now_text(),
        }

    found: Object = {
        "phase": phase,
        **({"reason": "NodeProblem", "message": problem} if problem else {}),
        "hostIP": node_address,
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": since,
        "conditions": [condition(name) for name in values],
        "containerStatuses": [container.shown() for container in containers],
    }
    return {**found, "initContainerStatuses": [one.shown() for one in init]} if init else found


def _terminated(code: int, since: str) -> Object:
    times = {"startedAt": since or now_text(), "finishedAt": now_text()}
    return {"exitCode": code, "reason": "Completed" if code == 0 else "Error", **times}
