"""Names of the Java ModelMesh: those that still have an effect, and those for which only a warning is logged.

docs/reference/compatibility.md lists where each is now. Old names of settings that still work are listed beside the new ones in
`modelmesh.instance.settings`; the header `tas-model-id` is the core's (`crates/core/src/call/identify.rs`).
"""

MANAGEMENT_SERVICE = "com.ibm.watson.tas.proto.TasRuntime"
"""The management service's name of old: every method of `mmesh.ModelMesh` is answered under it too."""

MANAGEMENT_METHODS = {"addModel": "registerModel", "deleteModel": "unregisterModel"}
"""Methods that were called otherwise; their messages are the same on the wire."""


def full_names(method: str) -> tuple[str, ...]:
    """Every `service/method` under which a management method is answered."""
    names = (method, *(old for old, new in MANAGEMENT_METHODS.items() if new == method))
    return tuple(f"{service}/{name}" for service in ("mmesh.ModelMesh", MANAGEMENT_SERVICE) for name in names)


RUNTIME_SERVICE = "com.ibm.watson.tas.internal.proto.ModelServer"
"""Asked for when a runtime does not know `mmesh.ModelRuntime`; never inference."""

_JVM = "it tuned the Java virtual machine, and there is none"
_ONE_CORE = "calls between instances are gRPC and need no such setting"

WITHOUT_EFFECT = {
    "CUSTOM_JVM_ARGS": _JVM,
    "DEFAULT_JAVA_HOME": _JVM,
    "GC_DIAG": _JVM,
    "HEAP_SIZE_MB": _JVM,
    "MAX_DIRECT_BUFS_MB": _JVM,
    "MAX_GC_PAUSE": _JVM,
    "MEM_LIMIT_MB": _JVM,
    "NETTY_BUFFER_CHECKS": _JVM,
    "MM_SERVICE_CLASS": "there is one kind of service",
    "MM_SEND_DEST_ID": "a call between instances always names its destination by address",
    "MM_INTRACLUSTER_CLIENTAUTH": "TLS between instances is mutual; MM_ENABLE_SSL=false turns it off whole",
    "MM_METRICS_STATSD_PORT": "use MM_METRICS=statsd:port=N",
    "MM_METRICS_PROMETHEUS_PORT": "use MM_METRICS=prometheus:port=N",
    "LL_PRIVATE_ENDPOINT": _ONE_CORE,
    "LL_PRIVATE_DOMAIN_ID": _ONE_CORE,
    "LL_USE_PRIVATE": _ONE_CORE,
    "LL_REGISTRY": "instances find each other through KV_STORE",
    "WATSON_SERVICE_REG_PORT": "instances are registered with the port they listen on (WATSON_SERVICE_PORT)",
    "WKUBE_NODE_NAME": "instances are not registered by node port; WKUBE_POD_IPADDR is their address",
    "WKUBE_SERVICE_NAME": "instances are not registered by node port; WKUBE_POD_IPADDR is their address",
    "WKUBE_SERVICE_PORT_NAME": "instances are not registered by node port; WKUBE_POD_IPADDR is their address",
    "ZOOKEEPER": "ZooKeeper is no longer supported; set KV_STORE",
}
"""Variables that a container may have, and why they do nothing."""

WITHOUT_EFFECT_PREFIXES = {
    "LITELINKS_SSL_": "TLS between instances comes from MM_TLS_* and MM_INTERNAL_TRUST_CERTS",
}
"""The same for all variables that begin so."""


def without_effect(name: str) -> str | None:
    """Why a variable does nothing; None if we do not know it."""
    prefixed = (why for prefix, why in WITHOUT_EFFECT_PREFIXES.items() if name.startswith(prefix))
    return WITHOUT_EFFECT.get(name) or next(prefixed, None)
