"""The annotations and labels that people set, or that the controller sets for them to read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Annotation:
    """One of them. `resource` says what carries it."""

    name: str
    resource: str
    meaning: str


_MODEL = "InferenceService"
_RUNTIME = "runtime"

ANNOTATIONS: tuple[Annotation, ...] = (
    Annotation("modelmesh-enabled", "label of a Namespace", "`true`: the controller serves the namespace. Without the label it serves its own only"),
    Annotation("serving.kserve.io/deploymentMode", _MODEL, "`ModelMesh`: the model is for the mesh; all others are left alone"),
    Annotation("serving.kserve.io/servingRuntime", _MODEL, "the runtime that a model of the old form must be on"),
    Annotation("serving.kserve.io/secretKey", _MODEL, "as `storage.key`, where that is not there"),
    Annotation("serving.kserve.io/schemaPath", _MODEL, "as `storage.schemaPath`, where that is not there"),
    Annotation("maxLoadingConcurrency", _RUNTIME, "loads at a time"),
    Annotation("perModelConcurrencyLimit", _RUNTIME, "calls that one model takes at a time; 0: no limit"),
    Annotation("serving.kserve.io/autoscalerClass", _RUNTIME, "who sets the pods: `hpa`, a HorizontalPodAutoscaler; `modelmesh`, the controller, [by calls, loads and memory](../how-to/serve-on-kubernetes.md#scaling); `external`, somebody else, as KEDA; `none`: `spec.replicas` or the configuration"),
    Annotation("serving.kserve.io/metrics", _RUNTIME, "of the autoscaler: `cpu` (default) or `memory`"),
    Annotation("serving.kserve.io/targetUtilizationPercentage", _RUNTIME, "of the autoscaler: 1 to 100 percent of what is requested, 80 by default"),
    Annotation("serving.kserve.io/min-scale", _RUNTIME, "of `hpa`, `modelmesh` and `external`: the fewest pods, 1 by default"),
    Annotation("serving.kserve.io/max-scale", _RUNTIME, "of those: the most pods, by default the fewest; of `external` any number"),
    Annotation("modelmesh.io/calls-per-pod", _RUNTIME, "calls at work at a time that one pod shall take, 16 by default; of `modelmesh` and `external`"),
    Annotation("modelmesh.io/wait-saved-per-minute", _RUNTIME, "seconds of callers' waiting, each minute, that one more pod must save, 6 by default; of the same"),
    Annotation("modelmesh.io/config", _RUNTIME, "configuration for this runtime: YAML with the keys above"),
    Annotation("modelmesh.io/roll", _RUNTIME, "`true`: the pods of a Deployment that another controller made may be replaced ([move over](../how-to/move-from-modelmesh-serving.md))"),
    Annotation("modelmesh.io/local-command", _RUNTIME, "what starts the server on a machine without containers (`modelmesh up`)"),
    Annotation("controller.kubernetes.io/pod-deletion-cost", "a runtime's pod", "what it costs to empty it: the cheapest pod goes first; the controller sets it before it takes one away"),
    Annotation("modelmesh.io/empty-since", "a runtime's Deployment", "since when no model needs the runtime; the controller sets it"),
    Annotation("modelmesh.io/applied", "what the controller applied", "a digest of what it applied last; the controller sets it"),
    Annotation("serving.kserve.io/inferenceservice", "label of an autoscaler", "the name of the runtime; the controller sets it"),
)  # fmt: skip
"""In the order of the reference page."""
