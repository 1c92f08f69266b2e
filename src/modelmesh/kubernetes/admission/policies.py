"""ValidatingAdmissionPolicies: what definitions cannot say, and the same rules where another system has the definitions.

They need Kubernetes 1.30. Older clusters learn the same from the status of the resource.
"""

from collections.abc import Sequence
from typing import Any

from modelmesh.kubernetes.admission.annotation_rules import INFERENCE_SERVICE, MESH_SERVICE, MODELS, RUNTIME_ANNOTATIONS
from modelmesh.kubernetes.admission.definitions import GROUP
from modelmesh.kubernetes.admission.rules import MULTI_MODEL, RUNTIME, Rule
from modelmesh.kubernetes.admission.secret_rules import PREDICTOR_KEYS, READABLE, SERVICE_KEYS

_NOTES = "has(object.metadata.annotations) ? object.metadata.annotations : {}"
_API = "admissionregistration.k8s.io/v1"


def policies() -> list[dict[str, Any]]:
    """The policies, each with its binding."""
    annotations = {"name": "annotations", "expression": _NOTES}
    guard = MULTI_MODEL.replace("SPEC", "object.spec")
    mesh = MESH_SERVICE.replace("variables.annotations", f"({_NOTES})")
    return [
        *_policy(
            "modelmesh-runtimes",
            "v1alpha1",
            ("servingruntimes", "clusterservingruntimes"),
            {"name": "multi-model", "expression": guard},
            [annotations],
            (*RUNTIME, *RUNTIME_ANNOTATIONS),
        ),
        *_policy(
            "modelmesh-inference-services",
            "v1beta1",
            ("inferenceservices",),
            {"name": "for-the-mesh", "expression": mesh},
            [annotations, {"name": "models", "expression": MODELS}],
            INFERENCE_SERVICE,
        ),
        *_policy(
            "modelmesh-inference-service-secrets",
            "v1beta1",
            ("inferenceservices",),
            # Of any mode: a key that was not asked about before would come into the mesh with a change of the mode.
            {"name": "with-predictor", "expression": "has(object.spec.predictor)"},
            SERVICE_KEYS,
            READABLE,
        ),
        *_policy(
            "modelmesh-predictor-secrets",
            "v1alpha1",
            ("predictors",),
            {"name": "with-storage", "expression": "has(object.spec.storage)"},
            PREDICTOR_KEYS,
            READABLE,
        ),
    ]


def _policy(
    name: str,
    version: str,
    resources: Sequence[str],
    condition: dict[str, str],
    variables: Sequence[dict[str, str]],
    rules: Sequence[Rule],
) -> list[dict[str, Any]]:
    matched = {
        "apiGroups": [GROUP],
        "apiVersions": [version],
        "operations": ["CREATE", "UPDATE"],
        "resources": list(resources),
    }
    return [
        {
            "apiVersion": _API,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [matched]},
                "matchConditions": [condition],
                "variables": list(variables),
                "validations": [rule.in_policy() for rule in rules],
            },
        },
        {
            "apiVersion": _API,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    ]
