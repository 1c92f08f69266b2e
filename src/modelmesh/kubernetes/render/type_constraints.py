"""The ConfigMap `tc-config`: which labels a type of model requires, and where calls name their model.

Source: spec/serving-controller.md 2.4.
"""

import base64
import json
from collections.abc import Iterable

from modelmesh.declared import Runtime
from modelmesh.kubernetes.render.objects import TYPE_CONSTRAINTS, Object, metadata

NO_RUNTIME = "_no_runtime"
"""A label that no instance has: types without a runtime require it, so that their loads fail with a clear text."""

_ID_PATHS = {
    "inference.GRPCInferenceService/ModelInfer": [1],
    "inference.GRPCInferenceService/ModelMetadata": [1],
    "inference.GRPCInferenceService/ModelReady": [1],
    "tensorflow.serving.PredictionService/Predict": [1, 1],
    "org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions": [1],
}
"""Method to the numbers of the protobuf fields that lead to the model's id."""


def render_type_constraints(namespace: str, runtimes: Iterable[Runtime]) -> Object:
    """Render it for the runtimes of a namespace, as they are served."""
    constraints: dict[str, list[str]] = {}
    for runtime in sorted(runtimes, key=lambda runtime: runtime.name):
        if runtime.serves:
            constraints |= runtime.constraints()
    constraints["_default"] = [NO_RUNTIME]
    dataplane = {
        "rpcConfigs": {method: {"idExtractionPath": path, "vModelId": True} for method, path in _ID_PATHS.items()},
        "allowOtherRpcs": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(TYPE_CONSTRAINTS, namespace, None),
        "binaryData": {
            "type_constraints": _encoded({name: {"required": labels} for name, labels in sorted(constraints.items())}),
            "dataplane_api_config": _encoded(dataplane),
        },
    }


def _encoded(document: object) -> str:
    return base64.b64encode(json.dumps(document, separators=(",", ":")).encode()).decode()
