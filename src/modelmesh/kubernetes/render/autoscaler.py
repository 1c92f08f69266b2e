"""Who sets the pods of a runtime, and the HorizontalPodAutoscaler if that does. Source: spec/serving-controller.md 2.6."""

import enum
from dataclasses import dataclass

from modelmesh.declared import Runtime
from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.render.objects import COMMON_LABELS, Object, Owner, deployment_name, metadata

_PREFIX = "serving.kserve.io/"
_TARGET_PERCENT = 80


class ScaledBy(enum.Enum):
    """Who sets the number of pods, as the annotation says it."""

    FIXED = "none"
    AUTOSCALER = "hpa"
    CONTROLLER = "modelmesh"
    OTHERS = "external"


@dataclass(frozen=True, slots=True)
class Scaling:
    """How an autoscaler sets the pods of a runtime. `target` is the utilization in percent of what is requested."""

    least: int
    most: int
    metric: str
    target: int


def scaled_by(runtime: Runtime) -> ScaledBy:
    """Who sets the pods; the runtime was read, so its annotation is one of these."""
    return ScaledBy(runtime.annotations.get(f"{_PREFIX}autoscalerClass") or "none")


def scaling(runtime: Runtime) -> Scaling | None:
    """What the annotations ask for; None if no autoscaler is to set the pods."""
    if scaled_by(runtime) is not ScaledBy.AUTOSCALER:
        return None
    least = _number(runtime, "min-scale", 1)
    return Scaling(
        least=least,
        most=max(least, _number(runtime, "max-scale", 1)),
        metric=runtime.annotations.get(f"{_PREFIX}metrics") or "cpu",
        target=_number(runtime, "targetUtilizationPercentage", _TARGET_PERCENT),
    )


def render_autoscaler(
    runtime: Runtime, config: Config, asked: Scaling, *, namespace: str, owner: Owner | None = None
) -> Object:
    """Render it; its name is the Deployment's."""
    name = deployment_name(runtime, config)
    labels = {**COMMON_LABELS, f"{_PREFIX}inferenceservice": runtime.name, "component": "predictor"}
    target = {"type": "Utilization", "averageUtilization": asked.target}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(name, namespace, owner, labels),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": asked.least,
            "maxReplicas": asked.most,
            "metrics": [{"type": "Resource", "resource": {"name": asked.metric, "target": target}}],
        },
    }


def _number(runtime: Runtime, name: str, default: int) -> int:
    """The runtime was read, so its annotations are numbers."""
    return int(runtime.annotations.get(f"{_PREFIX}{name}") or default)
