"""How many pods a runtime shall have. Pure. Source: spec/serving-controller.md 2.6.

The time since when a runtime has no models is in an annotation of its Deployment, so that a controller that starts
again gives the same grace.
"""

from dataclasses import dataclass

from modelmesh.kubernetes.render import Scaling

EMPTY_SINCE = "modelmesh.io/empty-since"
"""Annotation of a Deployment: since when no model needs its runtime, RFC 3339."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The Deployment as it is. `empty_since_ms` as in the annotation; 0: there is none."""

    replicas: int
    empty_since_ms: int = 0


@dataclass(frozen=True, slots=True)
class Pods:
    """The decision.

    Attributes:
        replicas: None: an autoscaler decides.
        empty_since_ms: For the annotation; 0: there are models, or there is no waiting time.
        look_again_s: When the grace ends; None: nothing ends by itself.
        why: One sentence for people.
    """

    replicas: int | None
    empty_since_ms: int = 0
    look_again_s: float | None = None
    why: str = ""


def decide_pods(
    *,
    asked: int,
    autoscaler: Scaling | None,
    scale_to_zero: bool,
    grace_s: int,
    needed: bool,
    standing: Standing | None,
    now_ms: int,
) -> Pods:
    """Decide.

    Args:
        asked: By the runtime or the configuration.
        autoscaler: What it may do; None: there is none.
        scale_to_zero: Whether a runtime without models has no pods.
        grace_s: How long it keeps them.
        needed: Whether there is a model that the runtime may take.
        standing: The Deployment; None: there is none yet.
        now_ms: Epoch milliseconds.
    """
    if needed or not scale_to_zero:
        return _with_pods(asked, autoscaler, standing, "models need it" if needed else "scaling to zero is off")
    if standing is None or standing.replicas == 0:
        return Pods(0, why="no model needs it")
    since_ms = standing.empty_since_ms if 0 < standing.empty_since_ms <= now_ms else now_ms
    left_s = grace_s - (now_ms - since_ms) / 1000
    if left_s <= 0:
        return Pods(0, why=f"no model has needed it for {grace_s} s")
    kept = _with_pods(
        asked, autoscaler, standing, f"no model needs it; its pods end {grace_s} s after the last one was deleted"
    )
    return Pods(kept.replicas, since_ms, left_s, kept.why)


def _with_pods(asked: int, autoscaler: Scaling | None, standing: Standing | None, why: str) -> Pods:
    if autoscaler is None:
        return Pods(asked, why=why)
    if standing is None or standing.replicas == 0:
        return Pods(autoscaler.least, why=f"{why}; an autoscaler follows")  # it leaves a Deployment without pods alone
    return Pods(None, why=f"{why}; an autoscaler sets the number")
