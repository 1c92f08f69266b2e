"""Names of the old system that are understood here to be said, not obeyed.

Old names that still work are the second and later names of a setting (`modelmesh.instance.settings`), the legacy service
(`modelmesh.management.legacy`), and the header `tas-model-id` (`crates/core/src/identify.rs`). All of them, and what became of the
rest, are listed in docs/reference/compatibility.md.
"""

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
    "MM_METRICS_STATSD_PORT": "say MM_METRICS=statsd:port=N",
    "MM_METRICS_PROMETHEUS_PORT": "say MM_METRICS=prometheus:port=N",
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
