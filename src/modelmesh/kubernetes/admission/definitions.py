"""CustomResourceDefinitions of `serving.kserve.io`. Source: spec/serving-controller.md 1.1 to 1.3."""

from collections.abc import Sequence
from typing import Any

from modelmesh.declared.inference_services import FRAMEWORKS
from modelmesh.kubernetes.admission.rules import MULTI_MODEL, PREDICTOR, RUNTIME
from modelmesh.kubernetes.admission.schema import (
    MAX_NAME,
    Schema,
    anything,
    conditions,
    flag,
    listing,
    mapping,
    number,
    text,
    texts,
)

GROUP = "serving.kserve.io"
Column = dict[str, Any]


def column(name: str, path: str, kind: str = "string", *, wide: bool = False) -> Column:
    """A column of `kubectl get`; `wide`: with `-o wide` only."""
    return {"name": name, "type": kind, "jsonPath": path, **({"priority": 1} if wide else {})}


_AGE = column("Age", ".metadata.creationTimestamp", "date")


def _condition(name: str, part: str = "status") -> str:
    return f".status.conditions[?(@.type=='{name}')].{part}"


def _named(fields: dict[str, Schema]) -> Schema:
    """A part of a pod: the fields that rules look at; all others are kept, and checked where the pod is made."""
    return mapping({"name": text("Of it.", most=MAX_NAME), **fields}, open_=True, required=("name",))


def _runtime_spec() -> Schema:
    port = mapping(
        {"name": text("Of it.", most=MAX_NAME), "containerPort": number("Its number.", least=1, most=65535)},
        open_=True,
        required=("containerPort",),
    )
    container = _named(
        {
            "image": text("Of the container."),
            "ports": listing(port, "Names and numbers of the mesh are refused.", most=64),
            "volumeMounts": listing(_named({}), "Names of volumes of the mesh are refused, but models-dir.", most=64),
            "readinessProbe": anything("Refused: the mesh knows when a runtime is ready."),
            "lifecycle": anything("Refused: the mesh sets it."),
        }
    )
    model_format = mapping(
        {
            "name": text("Of the format, like sklearn."),
            "version": text("Of the format; models that state one need the same."),
            "autoSelect": flag("Whether models of the format may be placed here without naming this runtime."),
            "priority": {
                "type": "integer",
                "format": "int32",
                "minimum": 1,
                "description": "Has no effect for models of the mesh.",
            },
        },
        required=("name",),
    )
    adapter = mapping(
        {
            "serverType": text("Which server it runs beside; the name of its container.", most=MAX_NAME),
            "runtimeManagementPort": number("Where the server loads and unloads models.", least=0, most=65535),
            "memBufferBytes": number("Memory of the server that models may not use.", least=0),
            "modelLoadingTimeoutMillis": number("How long a load may take.", least=0, most=2**31 - 1),
            "env": listing(_named({}), "Further environment of the adapter.", most=256),
        },
        "The adapter that the mesh puts beside a known model server.",
        required=("serverType",),
    )
    spec = mapping(
        {
            "supportedModelFormats": listing(model_format, "Formats that it serves.", most=256),
            "multiModel": flag("Whether it is for the mesh. Other runtimes are left alone."),
            "disabled": flag("Whether no model may use it."),
            "protocolVersions": listing(text(most=MAX_NAME), "Protocols of inference, like grpc-v2.", most=32),
            "grpcEndpoint": text("Where models are loaded and unloaded: port:N or unix:PATH."),
            "grpcDataEndpoint": text("Where inference is called, if elsewhere: port:N or unix:PATH."),
            "httpDataEndpoint": text("Has no effect for models of the mesh."),
            "replicas": number(
                "Pods in each namespace; without it podsPerRuntime of the configuration.", least=0, most=65535
            ),
            "storageHelper": mapping(
                {"disabled": flag("Whether it gets model files by itself.")}, "The puller before it."
            ),
            "builtInAdapter": adapter,
            "containers": listing(container, "Of its pods; the mesh adds its own.", most=32),
            "volumes": listing(_named({}), "Of its pods.", most=128),
            "nodeSelector": texts("Of its pods."),
            "tolerations": listing(anything(), "Of its pods.", most=64),
            "affinity": anything("Of its pods."),
            "labels": texts("Of its pods."),
            "annotations": texts("Of its pods."),
            "imagePullSecrets": listing(mapping({"name": text("Of the Secret.", most=253)}), "Of its pods.", most=64),
            "hostIPC": flag("Has no effect for models of the mesh."),
        },
        required=("containers",),
    )
    # Single-model runtimes are another system's; nothing here may refuse them.
    guard = MULTI_MODEL.replace("SPEC", "self")
    return {**spec, "x-kubernetes-validations": [rule.in_definition(guard) for rule in RUNTIME]}


def _runtime_status() -> Schema:
    return mapping(
        {
            "observedGeneration": number("Generation that the status is of.", least=0),
            "conditions": conditions(),
            "pods": number("Pods that there should be.", least=0),
            "readyPods": number("Pods that are ready.", least=0),
        },
        open_=True,
    )


_RUNTIME_COLUMNS = (
    column("Disabled", ".spec.disabled", "boolean"),
    column("ModelType", ".spec.supportedModelFormats[*].name"),
    column("Containers", ".spec.containers[*].name"),
    column("Valid", _condition("Valid")),
    column("Ready", _condition("Ready")),
    column("Why", _condition("Ready", "message"), wide=True),
    _AGE,
)

MODEL_STATES = ("", "Pending", "Standby", "Loading", "Loaded", "FailedToLoad")
TRANSITIONS = ("UpToDate", "InProgress", "BlockedByFailedLoad", "InvalidSpec")
FAILURES = (
    *("ModelLoadFailed", "RuntimeUnhealthy", "RuntimeDisabled", "NoSupportingRuntime", "RuntimeNotRecognized"),
    "InvalidPredictorSpec",
)


def _failure(revision: str) -> Schema:
    return mapping(
        {
            "location": text("Instance on which the load failed."),
            "reason": text(choices=FAILURES),
            "message": text(most=32768),
            revision: text("Id of the concrete model."),
            "time": {"type": "string", "format": "date-time"},
        },
        "Why the last load failed.",
    )


def _predictor_spec() -> Schema:
    model_type = mapping(
        {
            "name": text("Of the format, like sklearn."),
            "version": text("Of the format; only runtimes that list it fit."),
        },
        "Format of the model.",
        required=("name",),
    )
    storage = mapping(
        {
            "path": text("Of the model in its storage."),
            "schemaPath": text("Of its schema, in the same storage."),
            "parameters": texts("Override the entry of the storage Secret."),
            "key": text("Entry of the storage Secret."),
            "s3": mapping(
                {"secretKey": text("Old name of key."), "bucket": text("Old name of parameters.bucket.")},
                "Old form of key and parameters.bucket.",
                required=("secretKey",),
            ),
            "persistentVolumeClaim": anything("Refused: say parameters: {type: pvc, name: CLAIM}."),
        },
        "Where the files of the model are.",
    )
    spec = mapping(
        {
            "modelType": model_type,
            "path": text("Old place of storage.path."),
            "schemaPath": text("Old place of storage.schemaPath."),
            "storage": storage,
            "runtime": mapping({"name": text("Of the runtime.", most=253)}, "The runtime that it must be on."),
            "protocolVersion": text("Protocol of inference that it must be callable by."),
            "gpu": text("Part of the model's identity; has no effect.", choices=("required", "preferred")),
            "serviceAccountName": text("Part of the model's identity; has no effect."),
        },
        required=("modelType",),
    )
    return {**spec, "x-kubernetes-validations": [rule.in_definition() for rule in PREDICTOR]}


def _predictor_status() -> Schema:
    fresh = {
        "transitionStatus": "UpToDate",
        "activeModelState": "Pending",
        "targetModelState": "",
        "available": False,
        "failedCopies": 0,
        "totalCopies": 0,
    }
    status = mapping(
        {
            "available": flag("Whether it can be called."),
            "transitionStatus": text("Whether the target is what is served.", choices=TRANSITIONS),
            "activeModelState": text("Of the model that is served.", choices=MODEL_STATES),
            "targetModelState": text("Of the model that is to be served, if another.", choices=MODEL_STATES),
            "lastFailureInfo": _failure("modelId"),
            "grpcEndpoint": text(),
            "httpEndpoint": text(),
            "totalCopies": number(least=0),
            "failedCopies": number(least=0),
            "observedGeneration": number("Generation that the status is of.", least=0),
            "conditions": conditions(),
        },
        open_=True,
    )
    return {**status, "default": fresh}


_PREDICTOR_COLUMNS = (
    column("Type", ".spec.modelType.name"),
    column("Available", ".status.available", "boolean"),
    column("ActiveModel", ".status.activeModelState"),
    column("TargetModel", ".status.targetModelState"),
    column("Transition", ".status.transitionStatus"),
    column("Reason", ".status.lastFailureInfo.reason", wide=True),
    column("Why", ".status.lastFailureInfo.message", wide=True),
    _AGE,
)


_OLD_FORM = "Old form of model: the field names the format. Fields as in model, without modelFormat and runtime."


def _service_spec() -> Schema:
    """Of predictors the mesh reads the model; all else is KServe's and kept as it is."""
    storage = {
        "key": text("Entry of the storage Secret."),
        "path": text("Of the model in its storage."),
        "schemaPath": text("Of its schema, in the same storage."),
        "parameters": texts("Override the entry of the storage Secret."),
    }
    fields = {
        "storageUri": text("Where its files are: s3, gs, pvc, http, https, hf, oci and others."),
        "storage": mapping(storage, "The same by an entry of the storage Secret.", open_=True),
        "protocolVersion": text("Protocol of inference that it must be callable by."),
        "runtime": text("The runtime that it must be on.", most=253),
    }
    form = mapping(
        {"name": text("Like sklearn."), "version": text("Only runtimes that list it fit.")},
        "Of its files.",
        required=("name",),
    )
    framework = mapping({name: field for name, field in fields.items() if name != "runtime"}, _OLD_FORM, open_=True)
    model = mapping({"modelFormat": form, **fields}, "The model.", open_=True, required=("modelFormat",))
    return mapping(
        {
            "predictor": mapping(
                {"model": model, **dict.fromkeys(FRAMEWORKS, framework)},
                "The model, under `model` or, the old form, under the name of its framework.",
                open_=True,
            ),
            "transformer": anything("Has no effect in the mesh."),
            "explainer": anything("Has no effect in the mesh."),
        },
        required=("predictor",),
    )


def _service_status() -> Schema:
    states = {name: text(choices=MODEL_STATES) for name in ("activeModelState", "targetModelState")}
    copies = {name: number(least=0) for name in ("failedCopies", "totalCopies")}
    model = mapping(
        {
            "transitionStatus": text(choices=("", *TRANSITIONS)),
            "states": mapping(states),
            "copies": mapping(copies),
            "lastFailureInfo": {**_failure("modelRevisionName"), "x-kubernetes-preserve-unknown-fields": True},
        },
        open_=True,
    )
    return mapping(
        {
            "modelStatus": model,
            "url": text(),
            "components": {"type": "object", "additionalProperties": anything()},
            "observedGeneration": number(least=0),
            "conditions": conditions(),
        },
        open_=True,
    )


_SERVICE_COLUMNS = (
    column("URL", ".status.url"),
    column("Ready", _condition("Ready")),
    column("Active", ".status.modelStatus.states.activeModelState"),
    column("Target", ".status.modelStatus.states.targetModelState"),
    column("Transition", ".status.modelStatus.transitionStatus"),
    column("Why", ".status.modelStatus.lastFailureInfo.message", wide=True),
    _AGE,
)


def definitions() -> dict[str, dict[str, Any]]:
    """The definitions, by the plural of their kind."""
    runtime = (_runtime_spec(), _runtime_status(), _RUNTIME_COLUMNS)
    return {
        "servingruntimes": _definition("ServingRuntime", "v1alpha1", *runtime),
        "clusterservingruntimes": _definition("ClusterServingRuntime", "v1alpha1", *runtime, scope="Cluster"),
        "predictors": _definition("Predictor", "v1alpha1", _predictor_spec(), _predictor_status(), _PREDICTOR_COLUMNS),
        "inferenceservices": _definition(
            "InferenceService", "v1beta1", _service_spec(), _service_status(), _SERVICE_COLUMNS, short=("isvc",)
        ),
    }


def _definition(
    kind: str,
    version: str,
    spec: Schema,
    status: Schema,
    columns: Sequence[Column],
    *,
    scope: str = "Namespaced",
    short: Sequence[str] = (),
) -> dict[str, Any]:
    plural = f"{kind.lower()}s"
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    schema = mapping(
        {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        }
    )
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": {**names, **({"shortNames": list(short)} if short else {})},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": list(columns),
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }
