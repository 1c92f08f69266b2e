"""The container `mm`: the ModelMesh instance of a runtime pod. Source: spec/serving-controller.md 2.3."""

from modelmesh.declared import Runtime
from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.render.endpoints import SOCKETS, parse_endpoint, socket_folder
from modelmesh.kubernetes.render.objects import MANAGEMENT_PORT, TYPE_CONSTRAINTS, Object, variables

NAME = "mm"
GRACE_S = 90
"""How long a pod may take to end: it has its models loaded elsewhere first."""

PULLER_PORT = 8086
_DOCUMENTS = "/etc/watson/mmesh/config"
_STORE = "/opt/kserve/mmesh/etcd"
_TLS = "/opt/kserve/mmesh/tls"


def mesh_container(runtime: Runtime, config: Config, *, puller: bool, tls_authority: bool) -> Object:
    """Render it.

    Args:
        runtime: As it is served (`as_served`).
        config: Of the runtime.
        puller: Whether a puller stands before the runtime.
        tls_authority: Whether the Secret of TLS has `ca.crt`.
    """
    named = {
        "grpc": config.service_port,
        MANAGEMENT_PORT: config.management_port,
        "http": config.rest_port,
        "prometheus": config.metrics_port,
    }
    ports = [{"name": name, "containerPort": port} for name, port in named.items() if port is not None]
    return {
        "name": NAME,
        "image": config.mesh_image.reference,
        "env": variables(_environment(runtime, config, puller=puller, tls_authority=tls_authority)),
        "ports": ports,
        "resources": {"requests": dict(config.mesh_resources.requests), "limits": dict(config.mesh_resources.limits)},
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": 8089},
            "initialDelaySeconds": 5,
            "periodSeconds": 5,
            "timeoutSeconds": 1,
        },
        "livenessProbe": {
            "httpGet": {"path": "/live", "port": 8089},
            "initialDelaySeconds": 90,
            "periodSeconds": 30,
            "timeoutSeconds": 5,
            "failureThreshold": 2,
        },
        "lifecycle": {"preStop": {"exec": {"command": ["/opt/kserve/mmesh/stop.sh", "wait"]}}},
        "securityContext": {"capabilities": {"drop": ["ALL"]}},
        "volumeMounts": _mounts(runtime, config),
    }


def _mounts(runtime: Runtime, config: Config) -> list[Object]:
    mounts: list[Object] = [
        {"name": TYPE_CONSTRAINTS, "mountPath": _DOCUMENTS},
        {"name": "etcd-config", "mountPath": _STORE, "readOnly": True},
    ]
    if config.tls_secret:
        mounts.append({"name": "tls-certs", "mountPath": _TLS, "readOnly": True})
    if folder := socket_folder(runtime.management_endpoint, runtime.data_endpoint):
        mounts.append({"name": SOCKETS, "mountPath": folder})
    return mounts


def _environment(runtime: Runtime, config: Config, *, puller: bool, tls_authority: bool) -> dict[str, str | Object]:
    """In the order in which later ones win: what the configuration adds may be overwritten by what the mesh needs."""
    found: dict[str, str | Object] = {
        "MM_SERVICE_NAME": config.service_name,
        "MM_SVC_GRPC_PORT": str(config.service_port),
        "WKUBE_POD_NAME": {"fieldRef": {"fieldPath": "metadata.name"}},
        "WKUBE_POD_IPADDR": {"fieldRef": {"fieldPath": "status.podIP"}},
        "MM_LOCATION": {"fieldRef": {"fieldPath": "status.hostIP"}},
        "KV_STORE": f"etcd:{_STORE}/etcd_connection",
        "MM_METRICS": "disabled"
        if config.metrics_port is None
        else f"prometheus:port={config.metrics_port};scheme={config.metrics_scheme}",
        "SHUTDOWN_TIMEOUT_MS": str(GRACE_S * 1000),
    }
    found |= dict(config.mesh_environment)
    if data := parse_endpoint(runtime.data_endpoint):
        if data.port:
            found["INTERNAL_SERVING_GRPC_PORT"] = data.port
        else:
            found["INTERNAL_SERVING_GRPC_SOCKET_PATH"] = data.socket
    management = parse_endpoint(runtime.management_endpoint)
    if puller or management is None or management.port:
        found["INTERNAL_GRPC_PORT"] = str(PULLER_PORT) if puller or management is None else management.port
    else:
        found["INTERNAL_GRPC_SOCKET_PATH"] = management.socket
    if config.access_log:
        found["MM_LOG_EACH_INVOKE"] = "true"
    if config.max_message_bytes:
        found["MM_SVC_GRPC_MAX_MSG_SIZE"] = str(config.max_message_bytes)
    found["MM_KVSTORE_PREFIX"] = "mm"
    found["MM_DEFAULT_VMODEL_OWNER"] = "ksp"
    for name, port in (("MM_MANAGEMENT_PORT", config.management_port), ("MM_REST_PORT", config.rest_port)):
        if port is not None:
            found[name] = str(port)
    if config.payload_processors:
        found["MM_PAYLOAD_PROCESSORS"] = " ".join(config.payload_processors)
    found["MM_LABELS"] = ",".join(sorted(runtime.labels))
    found["MM_TYPE_CONSTRAINTS_PATH"] = f"{_DOCUMENTS}/type_constraints"
    found["MM_DATAPLANE_CONFIG_PATH"] = f"{_DOCUMENTS}/dataplane_api_config"
    return found | _tls_environment(config, tls_authority=tls_authority)


def _tls_environment(config: Config, *, tls_authority: bool) -> dict[str, str]:
    if not config.tls_secret:
        return {}
    found = {"MM_TLS_KEY_CERT_PATH": f"{_TLS}/tls.crt", "MM_TLS_PRIVATE_KEY_PATH": f"{_TLS}/tls.key"}
    if config.tls_client_auth:
        found["MM_TLS_CLIENT_AUTH"] = config.tls_client_auth
        found["MM_TLS_TRUST_CERT_PATH"] = f"{_TLS}/tls.crt" + (f",{_TLS}/ca.crt" if tls_authority else "")
    return found
