"""The Deployment that the archived Go controller made of a runtime. Source: spec/serving-controller.md 2.3, 5.2 and 6.

Written from the description of what it did, without its code and apart from ours: comparing the two says what differs.
"""

import re
from typing import Any

from modelmesh.declared import Runtime
from modelmesh.kubernetes.config import Config

Object = dict[str, Any]

_COMMON = {f"app.kubernetes.io/{key}": "modelmesh-controller" for key in ("instance", "managed-by", "name")}
_PRE_STOP = {"preStop": {"httpGet": {"path": "/prestop", "port": 8090}}}
_DROP_ALL = {"capabilities": {"drop": ["ALL"]}}
_TLS = "/opt/kserve/mmesh/tls"
_PROXY_RESOURCES = {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}


def deployment(runtime: Runtime, config: Config, *, namespace: str, replicas: int, claims: tuple[str, ...]) -> Object:
    """As `render_runtime`, with `ca.crt` in the Secret of TLS."""
    name = f"{config.service_name}-{runtime.name}"
    labels = {"modelmesh-service": config.service_name, "name": name, **_COMMON}
    annotations: dict[str, str] = {}
    if config.metrics_port:
        annotations = {
            "prometheus.io/path": "/metrics",
            "prometheus.io/port": str(config.metrics_port),
            "prometheus.io/scheme": config.metrics_scheme,
            "prometheus.io/scrape": "true",
        }
    annotations |= {**config.pod_annotations, **runtime.body.get("annotations", {})}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": {"modelmesh-service": config.service_name, "name": name}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "75%", "maxUnavailable": "15%"}},
        "template": {
            "metadata": {
                "labels": {**labels, **config.pod_labels, **runtime.body.get("labels", {})},
                **({"annotations": annotations} if annotations else {}),
            },
            "spec": _pod(runtime, config, claims),
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": spec,
    }


def _pod(runtime: Runtime, config: Config, claims: tuple[str, ...]) -> Object:
    affinity = {**runtime.body.get("affinity", {})}
    node = {**affinity.get("nodeAffinity", {})}
    arch = {
        "matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64", "s390x"]}]
    }
    terms = node.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    node["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": [*terms, arch]}
    affinity["nodeAffinity"] = node
    pod: Object = {
        "terminationGracePeriodSeconds": 90,
        "affinity": affinity,
        "containers": _containers(runtime, config, claims),
        "volumes": _volumes(runtime, config, claims),
    }
    if config.service_account:
        pod["serviceAccountName"] = config.service_account
    secrets = [*config.pull_secrets, *(secret["name"] for secret in runtime.body.get("imagePullSecrets", []))]
    if secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in dict.fromkeys(secrets)]
    return pod | {field: runtime.body[field] for field in ("nodeSelector", "tolerations") if field in runtime.body}


def _puller(runtime: Runtime) -> bool:
    return runtime.adapter is None and not runtime.body.get("storageHelper", {}).get("disabled", False)


def _containers(runtime: Runtime, config: Config, claims: tuple[str, ...]) -> list[Object]:
    containers = [_mm(runtime, config)]
    if config.rest_port:
        containers.append(_rest_proxy(config))
    containers += [_server(runtime, container, claims) for container in runtime.body["containers"]]
    if runtime.adapter is not None:
        containers.append(_adapter(runtime, config, claims))
    # It goes last by changing places with the one that was.
    containers[0], containers[-1] = containers[-1], containers[0]
    if _puller(runtime):
        containers.append(_pulling(runtime, config, claims))
    return containers


def _socket(*endpoints: str) -> str:
    """The folder of sockets."""
    paths = [
        re.sub("^unix:(//)?", "", endpoint) for endpoint in endpoints if endpoint and not endpoint.startswith("port:")
    ]
    return paths[0].rpartition("/")[0] if paths else ""


def _claims(claims: tuple[str, ...]) -> list[Object]:
    return [{"name": claim, "mountPath": f"/pvc_mounts/{claim}", "readOnly": True} for claim in sorted(claims)]


def _mm(runtime: Runtime, config: Config) -> Object:
    environment: dict[str, Any] = {
        "MM_SERVICE_NAME": config.service_name,
        "MM_SVC_GRPC_PORT": str(config.service_port),
        "WKUBE_POD_NAME": {"fieldRef": {"fieldPath": "metadata.name"}},
        "WKUBE_POD_IPADDR": {"fieldRef": {"fieldPath": "status.podIP"}},
        "MM_LOCATION": {"fieldRef": {"fieldPath": "status.hostIP"}},
        "KV_STORE": "etcd:/opt/kserve/mmesh/etcd/etcd_connection",
        "MM_METRICS": f"prometheus:port={config.metrics_port};scheme={config.metrics_scheme}"
        if config.metrics_port
        else "disabled",
        "SHUTDOWN_TIMEOUT_MS": "90000",
        **dict(config.mesh_environment),
    }
    data, management = runtime.data_endpoint, runtime.management_endpoint
    if data:
        kind = "PORT" if data.startswith("port:") else "SOCKET_PATH"
        environment[f"INTERNAL_SERVING_GRPC_{kind}"] = re.sub("^(port:|unix:(//)?)", "", data)
    if _puller(runtime):
        environment["INTERNAL_GRPC_PORT"] = "8086"
    else:
        kind = "PORT" if management.startswith("port:") else "SOCKET_PATH"
        environment[f"INTERNAL_GRPC_{kind}"] = re.sub("^(port:|unix:(//)?)", "", management)
    if config.access_log:
        environment["MM_LOG_EACH_INVOKE"] = "true"
    if config.max_message_bytes > 0:
        environment["MM_SVC_GRPC_MAX_MSG_SIZE"] = str(config.max_message_bytes)
    environment |= {"MM_KVSTORE_PREFIX": "mm", "MM_DEFAULT_VMODEL_OWNER": "ksp"}
    if config.payload_processors:
        environment["MM_PAYLOAD_PROCESSORS"] = " ".join(config.payload_processors)
    labels = set(runtime.labels)
    if config.rest_port and "grpc-v2" in runtime.protocols:
        labels.add("pv:v2")
    environment |= {
        "MM_LABELS": ",".join(sorted(labels)),
        "MM_TYPE_CONSTRAINTS_PATH": "/etc/watson/mmesh/config/type_constraints",
        "MM_DATAPLANE_CONFIG_PATH": "/etc/watson/mmesh/config/dataplane_api_config",
        **_tls(config),
    }
    mounts: list[Object] = [
        {"name": "tc-config", "mountPath": "/etc/watson/mmesh/config"},
        {"name": "etcd-config", "mountPath": "/opt/kserve/mmesh/etcd", "readOnly": True},
    ]
    if config.tls_secret:
        mounts.append({"name": "tls-certs", "mountPath": _TLS, "readOnly": True})
    if folder := _socket(management, data):
        mounts.append({"name": "domain-socket", "mountPath": folder})
    ports = [{"name": "grpc", "containerPort": config.service_port}]
    if config.metrics_port:
        ports.append({"name": "prometheus", "containerPort": config.metrics_port})
    return {
        "name": "mm",
        "image": config.mesh_image.reference,
        "env": _env(environment),
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
        "securityContext": _DROP_ALL,
        "volumeMounts": mounts,
    }


def _tls(config: Config) -> dict[str, str]:
    if not config.tls_secret:
        return {}
    found = {"MM_TLS_KEY_CERT_PATH": f"{_TLS}/tls.crt", "MM_TLS_PRIVATE_KEY_PATH": f"{_TLS}/tls.key"}
    if config.tls_client_auth:
        found |= {
            "MM_TLS_CLIENT_AUTH": config.tls_client_auth,
            "MM_TLS_TRUST_CERT_PATH": f"{_TLS}/tls.crt,{_TLS}/ca.crt",
        }
    return found


def _rest_proxy(config: Config) -> Object:
    environment = {
        "REST_PROXY_LISTEN_PORT": str(config.rest_port),
        "REST_PROXY_GRPC_PORT": str(config.service_port),
        "REST_PROXY_USE_TLS": "true" if config.tls_secret else "false",
        "REST_PROXY_GRPC_MAX_MSG_SIZE_BYTES": str(config.max_message_bytes),
        "REST_PROXY_SKIP_VERIFY": "false",
        **_tls(config),
    }
    found: Object = {
        "name": "rest-proxy",
        "image": "kserve/rest-proxy:latest",
        "env": _env(environment),
        "ports": [{"name": "http", "containerPort": config.rest_port}],
        "resources": _PROXY_RESOURCES,
    }
    return found | (
        {"volumeMounts": [{"name": "tls-certs", "mountPath": _TLS, "readOnly": True}]} if config.tls_secret else {}
    )


def _server(runtime: Runtime, container: Object, claims: tuple[str, ...]) -> Object:
    mounts = [*container.get("volumeMounts", []), {"name": "models-dir", "mountPath": "/models"}, *_claims(claims)]
    if folder := _socket(runtime.management_endpoint, runtime.data_endpoint):
        mounts.append({"name": "domain-socket", "mountPath": folder})
    return {"securityContext": _DROP_ALL, **container, "volumeMounts": mounts, "lifecycle": _PRE_STOP}


def _adapter(runtime: Runtime, config: Config, claims: tuple[str, ...]) -> Object:
    adapter = runtime.adapter
    assert adapter is not None
    (image,) = [one["image"] for one in runtime.body["containers"] if one["name"] == adapter.server_type]
    environment: dict[str, Any] = {
        "ADAPTER_PORT": runtime.management_endpoint.removeprefix("port:"),
        "RUNTIME_PORT": str(adapter.management_port),
        "RUNTIME_DATA_ENDPOINT": runtime.data_endpoint or f"port:{adapter.management_port}",
        "CONTAINER_MEM_REQ_BYTES": {
            "resourceFieldRef": {"containerName": adapter.server_type, "resource": "requests.memory"}
        },
        "MEM_BUFFER_BYTES": str(adapter.buffer_bytes),
        "LOADTIME_TIMEOUT": str(adapter.load_timeout_ms),
        "USE_EMBEDDED_PULLER": "true",
        "RUNTIME_VERSION": image.partition(":")[2],
    }
    for annotation, variable in (
        ("maxLoadingConcurrency", "LOADING_CONCURRENCY"),
        ("perModelConcurrencyLimit", "LIMIT_PER_MODEL_CONCURRENCY"),
    ):
        if annotation in runtime.annotations:
            environment[variable] = runtime.annotations[annotation]
    return {
        "name": f"{adapter.server_type}-adapter",
        "command": [f"/opt/app/{adapter.server_type}-adapter"],
        "env": _env(environment | dict(adapter.environment)),
        "lifecycle": _PRE_STOP,
        "securityContext": _DROP_ALL,
        **_helper(config, claims, _socket(runtime.data_endpoint)),
    }


def _pulling(runtime: Runtime, config: Config, claims: tuple[str, ...]) -> Object:
    environment = {
        "PORT": "8086",
        "MODEL_SERVER_ENDPOINT": runtime.management_endpoint,
        "ROOT_MODEL_DIR": "/models",
        "STORAGE_CONFIG_DIR": "/storage-config",
        "PVC_MOUNTS_DIR": "/pvc_mounts",
    }
    return {
        "name": "puller",
        "command": list(config.puller_command),
        "env": _env(environment),
        "ports": [{"name": "grpc", "containerPort": 8086}],
        **_helper(config, claims, _socket(runtime.management_endpoint)),
    }


def _helper(config: Config, claims: tuple[str, ...], sockets: str) -> Object:
    mounts = [
        {"name": "models-dir", "mountPath": "/models"},
        {"name": "storage-config", "mountPath": "/storage-config", "readOnly": True},
        *_claims(claims),
    ]
    return {
        "image": config.helper_image.reference,
        "resources": {
            "requests": dict(config.helper_resources.requests),
            "limits": dict(config.helper_resources.limits),
        },
        "volumeMounts": [*mounts, {"name": "domain-socket", "mountPath": sockets}] if sockets else mounts,
    }


def _volumes(runtime: Runtime, config: Config, claims: tuple[str, ...]) -> list[Object]:
    units = {"Gi": 2**30, "Mi": 2**20, "G": 10**9, "M": 10**6}
    limits = [one.get("resources", {}).get("limits", {}).get("memory", "0M") for one in runtime.body["containers"]]
    total = sum(int(re.sub(r"\D", "", limit)) * units[re.sub(r"\d", "", limit)] for limit in limits)
    volumes: list[Object] = [*runtime.body.get("volumes", [])]
    volumes.append({"name": "models-dir", "emptyDir": {"sizeLimit": total * 3 // 2} if total else {}})
    if _socket(runtime.management_endpoint, runtime.data_endpoint):
        volumes.append({"name": "domain-socket", "emptyDir": {}})
    if runtime.adapter is not None or _puller(runtime):
        volumes.append({"name": "storage-config", "secret": {"secretName": config.storage_secret}})
    volumes += [{"name": one, "persistentVolumeClaim": {"claimName": one, "readOnly": True}} for one in sorted(claims)]
    volumes.append({"name": "tc-config", "configMap": {"name": "tc-config"}})
    volumes.append({"name": "etcd-config", "secret": {"secretName": config.store_secret}})
    return (
        [*volumes, {"name": "tls-certs", "secret": {"secretName": config.tls_secret}}] if config.tls_secret else volumes
    )


def _env(environment: dict[str, Any]) -> list[Object]:
    return [
        {"name": name, "value": value} if isinstance(value, str) else {"name": name, "valueFrom": value}
        for name, value in environment.items()
    ]
