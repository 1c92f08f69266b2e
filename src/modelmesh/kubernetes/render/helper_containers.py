"""Our containers that pull model files: the adapter beside a known server, or the puller before any other.

Source: spec/serving-controller.md 2.3.
"""

from collections.abc import Sequence

from modelmesh.declared import Runtime
from modelmesh.declared.runtimes import Adapter
from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.render.endpoints import SOCKETS, parse_endpoint, socket_folder
from modelmesh.kubernetes.render.mesh_container import PULLER_PORT
from modelmesh.kubernetes.render.objects import Object, items, variables
from modelmesh.kubernetes.render.server_containers import NO_CAPABILITIES, PRE_STOP
from modelmesh.kubernetes.render.volumes import MODELS, STORAGE, Claim, claim_mounts

ADAPTER_PORT = "8085"


def needs_puller(runtime: Runtime) -> bool:
    """Whether a puller stands before the runtime: it has no adapter, and does not pull for itself."""
    storage_helper = runtime.body.get("storageHelper")
    disabled = isinstance(storage_helper, dict) and storage_helper.get("disabled") is True
    return runtime.adapter is None and not disabled


def adapter_container(runtime: Runtime, adapter: Adapter, config: Config, claims: Sequence[Claim]) -> Object:
    """The adapter of a built-in server type."""
    management = parse_endpoint(runtime.management_endpoint)
    environment: dict[str, str | Object] = {
        "ADAPTER_PORT": (management.port if management else "") or ADAPTER_PORT,
        "RUNTIME_PORT": _number(adapter.management_port),
        "RUNTIME_DATA_ENDPOINT": runtime.data_endpoint or f"port:{_number(adapter.management_port)}",
        "CONTAINER_MEM_REQ_BYTES": {
            "resourceFieldRef": {"containerName": adapter.server_type, "resource": "requests.memory"}
        },
        "MEM_BUFFER_BYTES": _number(adapter.buffer_bytes),
        "LOADTIME_TIMEOUT": _number(adapter.load_timeout_ms),
        "USE_EMBEDDED_PULLER": "true",
        "RUNTIME_VERSION": image_tag(_server_image(runtime, adapter)),
    }
    for annotation, variable in (
        ("maxLoadingConcurrency", "LOADING_CONCURRENCY"),
        ("perModelConcurrencyLimit", "LIMIT_PER_MODEL_CONCURRENCY"),
    ):
        if annotation in runtime.annotations:
            environment[variable] = runtime.annotations[annotation]
    environment |= adapter.environment
    return {
        "name": f"{adapter.server_type}-adapter",
        "image": config.helper_image.reference,
        "command": [f"/opt/app/{adapter.server_type}-adapter"],
        # What the runtime does not say is left to the adapter's own defaults.
        "env": variables({name: value for name, value in environment.items() if value != ""}),
        "resources": _resources(config),
        "lifecycle": PRE_STOP,
        "securityContext": NO_CAPABILITIES,
        "volumeMounts": _mounts(claims, socket_folder(runtime.data_endpoint)),
    }


def puller_container(runtime: Runtime, config: Config, claims: Sequence[Claim]) -> Object:
    """The puller, between the instance and the runtime's management endpoint."""
    environment: dict[str, str | Object] = {
        "PORT": str(PULLER_PORT),
        "MODEL_SERVER_ENDPOINT": runtime.management_endpoint,
        "ROOT_MODEL_DIR": "/models",
        "STORAGE_CONFIG_DIR": "/storage-config",
        "PVC_MOUNTS_DIR": "/pvc_mounts",
    }
    return {
        "name": "puller",
        "image": config.helper_image.reference,
        "command": list(config.puller_command),
        "env": variables(environment),
        "ports": [{"name": "puller", "containerPort": PULLER_PORT}],
        "resources": _resources(config),
        "lifecycle": PRE_STOP,
        "securityContext": NO_CAPABILITIES,
        "volumeMounts": _mounts(claims, socket_folder(runtime.management_endpoint)),
    }


def image_tag(reference: str) -> str:
    """The tag of an image; empty if it has none. Ports of registries and digests are not taken for tags."""
    return reference.partition("@")[0].rpartition("/")[2].partition(":")[2]


def _server_image(runtime: Runtime, adapter: Adapter) -> str:
    containers = items(runtime.body.get("containers"))
    images = [container.get("image") for container in containers if container.get("name") == adapter.server_type]
    return next((image for image in images if isinstance(image, str)), "")


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _resources(config: Config) -> Object:
    return {"requests": dict(config.helper_resources.requests), "limits": dict(config.helper_resources.limits)}


def _mounts(claims: Sequence[Claim], sockets: str) -> list[Object]:
    mounts: list[Object] = [
        {"name": MODELS, "mountPath": "/models"},
        *claim_mounts(claims),
        {"name": STORAGE, "mountPath": "/storage-config", "readOnly": True},
    ]
    if sockets:
        mounts.append({"name": SOCKETS, "mountPath": sockets})
    return mounts
