"""What is wrong with a runtime under a configuration, beyond what its manifest alone shows (`declared.runtimes`)."""

from modelmesh.declared import Problem, Runtime
from modelmesh.declared.runtimes import MAX_LABEL
from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.render.objects import deployment_name, items


def check_runtime(runtime: Runtime, config: Config) -> tuple[Problem, ...]:
    """Problems that keep a runtime from being rendered; none: `render_runtime` gives objects that can be applied."""
    kind = "ClusterServingRuntime" if runtime.cluster_wide else "ServingRuntime"
    found: list[tuple[str, str]] = []
    if len(deployment_name(runtime, config)) > MAX_LABEL:
        room = MAX_LABEL - len(config.service_name) - 1
        found.append(("metadata.name", f"is longer than {room} characters, which a Deployment's name has no room for"))
    if runtime.adapter is not None and runtime.adapter.server_type not in config.server_types:
        known = ", ".join(config.server_types)
        found.append(("spec.builtInAdapter.serverType", f"must be one of {known}, as in builtInServerTypes"))
    ours = {
        config.service_port: "gRPC of the instance (inferenceServicePort)",
        config.management_port: "management of the instance (managementPort)",
        config.rest_port: "REST of the instance (restProxy.port)",
        config.metrics_port: "metrics of the instance (metrics.port)",
    }
    for number, container in enumerate(items(runtime.body.get("containers"))):
        for place, port in enumerate(items(container.get("ports"))):
            if (taken := ours.get(port.get("containerPort"))) is not None:
                path = f"spec.containers[{number}].ports[{place}].containerPort"
                found.append((path, f"{port['containerPort']} is taken: {taken}"))
    return tuple(Problem(runtime.source, f"{kind} {runtime.name}", path, message) for path, message in found)
