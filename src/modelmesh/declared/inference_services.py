"""`InferenceService` of `serving.kserve.io/v1beta1`. Source: spec/serving-controller.md 1.2."""

from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from modelmesh.declared.problems import Fields, shown
from modelmesh.declared.spec import ModelSpec, StorageSpec

DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"
MESH_MODE = "ModelMesh"
RUNTIME = "serving.kserve.io/servingRuntime"
SECRET_KEY = "serving.kserve.io/secretKey"  # noqa: S105 - the name of an annotation
SCHEMA_PATH = "serving.kserve.io/schemaPath"

FRAMEWORKS = ("xgboost", "lightgbm", "sklearn", "tensorflow", "onnx", "pytorch", "triton", "pmml")
"""Keys of the old form, in the order in which the first one that is there is taken."""

WHOLE_URI = ("hf", "oci", "file", "az", "azure")
"""Schemes that the old system did not know; their URI is the model's path as it is."""

_MODEL = ("modelFormat", "protocolVersion", "runtime", "storageUri", "storage")
_NO_EFFECT = "has no effect: a model is served by the runtime that holds it"


def read_inference_service(spec: Fields, annotations: Fields) -> ModelSpec:
    """The model of an InferenceService; problems are noted at the fields."""
    spec.only(("predictor", "transformer", "explainer"))
    spec.ignored(("transformer", "explainer"), _NO_EFFECT)
    if "predictor" not in spec:
        spec.problem("predictor", "is required")
        return ModelSpec("")
    predictor = spec.fields("predictor")
    predictor.only(("model", *FRAMEWORKS, "canaryTrafficPercent"), others=True)
    predictor.ignored(("canaryTrafficPercent", "minReplicas", "maxReplicas", "containers"), _NO_EFFECT)
    framework = next((name for name in FRAMEWORKS if name in predictor), None)
    pinned = annotations.text(RUNTIME)
    if "model" in predictor:
        if framework is not None:
            predictor.problem(framework, "is set beside model; set only one of them")
        return _new_form(predictor.fields("model"), annotations, pinned)
    if framework is None:
        predictor.problem("model", f"is required, or one of {', '.join(FRAMEWORKS)}")
        return ModelSpec("")
    model = predictor.fields(framework)
    model.only(_MODEL[1:], others=True)
    return ModelSpec(
        format=framework,
        storage=_read_storage(model, annotations),
        runtime=pinned or None,
        protocol_version=model.text("protocolVersion") or None,
    )


def _new_form(model: Fields, annotations: Fields, pinned: str | None) -> ModelSpec:
    model.only(_MODEL, others=True)
    form = model.fields("modelFormat")
    form.only(("name", "version"))
    if "modelFormat" not in model:
        model.problem("modelFormat", "is required")
    runtime = model.text("runtime")
    if pinned is not None and "runtime" in model:
        annotations.problem(RUNTIME, f"is set beside {model.at('runtime')}; set only one of them")
    elif pinned is not None:
        annotations.problem(RUNTIME, f"belongs to the old form; use {model.at('runtime')}")
    return ModelSpec(
        format=form.text("name", required="modelFormat" in model) or "",
        format_version=form.text("version"),
        storage=_read_storage(model, annotations),
        runtime=runtime or None,
        protocol_version=model.text("protocolVersion") or None,
    )


def _read_storage(model: Fields, annotations: Fields) -> StorageSpec:
    storage = model.fields("storage")
    storage.only(("key", "path", "schemaPath", "parameters"))
    parameters = storage.texts("parameters") or {}
    path = storage.text("path")
    uri = model.text("storageUri")
    if uri is not None and path is not None:
        model.problem("storageUri", f"is set beside {storage.at('path')}; set only one of them")
    elif uri is None and path is None and "storageUri" not in model and "path" not in storage:
        model.problem("storageUri", f"is required, or {storage.at('path')}")
    elif uri is not None:
        path, derived = _of_uri(uri, model)
        parameters |= derived
    return StorageSpec(
        path=path or "",
        schema_path=_first(storage.text("schemaPath"), annotations.text(SCHEMA_PATH)),
        parameters=parameters,
        key=_first(storage.text("key"), annotations.text(SECRET_KEY)),
    )


def _first(*texts: str | None) -> str | None:
    return next((text for text in texts if text is not None), None)


def _of_uri(uri: str, model: Fields) -> tuple[str, Mapping[str, str]]:
    """Path and storage parameters of a URI."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
    except ValueError as error:
        model.problem("storageUri", f"is no URI: {error}")
        return "", {}
    path = unquote(parts.path).removeprefix("/")
    if parts.scheme in {"s3", "gs", "pvc"}:
        if not parts.netloc:
            model.problem(
                "storageUri", f"names no {'claim' if parts.scheme == 'pvc' else 'bucket'}: {shown(_bare(parts))}"
            )
        kinds = {"s3": ("s3", "bucket"), "gs": ("gcs", "bucket"), "pvc": ("pvc", "name")}
        kind, where = kinds[parts.scheme]
        return path, {"type": kind, where: parts.netloc}
    if parts.scheme in {"http", "https"}:
        if not host:
            model.problem("storageUri", f"names no host: {shown(_bare(parts))}")
        if host.endswith(".blob.core.windows.net"):
            container, _, blob = path.partition("/")
            if not container:
                model.problem("storageUri", f"names no container: {shown(_bare(parts))}")
            return blob, {"type": "azure", "account_name": host.partition(".")[0], "container": container}
        query = f"?{parts.query}" if parts.query else ""
        return path, {"type": "http", "url": f"{parts.scheme}://{parts.netloc}{query}"}
    if parts.scheme in WHOLE_URI:
        return uri, {}
    schemes = ", ".join(("s3", "gs", "pvc", "http", "https", *WHOLE_URI))
    model.problem("storageUri", f"has the scheme {shown(parts.scheme) or 'of none'}; known are {schemes}")
    return "", {}


def _bare(parts: SplitResult) -> str:
    """A URI without what may be a secret: user, password and query."""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
