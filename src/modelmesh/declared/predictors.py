"""`Predictor` of `serving.kserve.io/v1alpha1`. Source: spec/serving-controller.md 1.1."""

from modelmesh.declared.problems import Fields
from modelmesh.declared.spec import ModelSpec, StorageSpec

_SPEC = ("modelType", "path", "schemaPath", "storage", "runtime", "protocolVersion", "gpu", "serviceAccountName")
_STORAGE = ("path", "schemaPath", "parameters", "key", "s3", "persistentVolumeClaim")


def read_predictor(spec: Fields, _annotations: Fields) -> ModelSpec:
    """The model of a Predictor; problems are noted at the fields."""
    spec.only(_SPEC)
    model_type = spec.fields("modelType")
    model_type.only(("name", "version"))
    if "modelType" not in spec:
        spec.problem("modelType", "is required")
    path, schema_path = spec.text("path"), spec.text("schemaPath")
    storage = _read_storage(spec.fields("storage")) if "storage" in spec else None
    if path and storage is not None and storage.path is not None:
        spec.problem("path", "Only one of spec.path and spec.storage.path can be specified")
    if schema_path is not None and storage is not None and storage.schema_path is not None:
        spec.problem("schemaPath", "Only one of spec.schemaPath and spec.storage.schemaPath can be specified")
    if storage is None:
        spec.problem("storage", "is not there: no load will find the model's files", fatal=False)
    runtime = spec.fields("runtime")
    runtime.only(("name",))
    gpu = spec.text("gpu")
    if gpu is not None and gpu not in {"required", "preferred"}:
        spec.problem("gpu", f"must be required or preferred, is {gpu}")
    spec.ignored(("gpu", "serviceAccountName"), "has no effect")
    return ModelSpec(
        format=model_type.text("name", required="modelType" in spec) or "",
        format_version=model_type.text("version"),
        path=path or "",
        schema_path=schema_path,
        storage=storage,
        runtime=(runtime.text("name") or "") if "runtime" in spec else None,
        protocol_version=spec.text("protocolVersion"),
        gpu=gpu,
        service_account_name=spec.text("serviceAccountName") or "",
    )


def _read_storage(storage: Fields) -> StorageSpec:
    storage.only(_STORAGE)
    if "persistentVolumeClaim" in storage:
        storage.problem(
            "persistentVolumeClaim",
            "spec.storage.PersistentVolumeClaim is not supported; use parameters: {type: pvc, name: CLAIM}",
        )
    s3 = storage.fields("s3")
    others = [name for name in ("path", "schemaPath", "parameters", "key") if name in storage]
    if "s3" in storage:
        s3.only(("secretKey", "bucket"))
        if others:
            storage.problem("s3", "spec.storage.s3 cannot be specified with any other keys in spec.storage")
    return StorageSpec(
        path=storage.text("path"),
        schema_path=storage.text("schemaPath"),
        parameters=storage.texts("parameters"),
        key=storage.text("key"),
        s3_secret_key=s3.text("secretKey", required="s3" in storage),
        s3_bucket=s3.text("bucket"),
    )
