"""What will happen when this controller takes over from the archived one, from the objects that are there. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from modelmesh.declared import Declared, Document, Problem, Runtime, Verdict, declare
from modelmesh.kubernetes.config import CONFIG_KEY, CONFIG_MAP, Config, Layer, read_config, runtime_layer
from modelmesh.kubernetes.config_keys import Level
from modelmesh.kubernetes.kinds import Object
from modelmesh.kubernetes.render import as_served, check_runtime, deployment_name

OLD_WEBHOOK = "modelmesh-servingruntime.serving.kserve.io"
_SERVING = "serving.kserve.io/"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer. `stops`: it must be mended first, else something would not be served."""

    what: str
    says: str
    stops: bool = False


def check(documents: Sequence[Document], *, home: str) -> list[Finding]:
    """What will happen to each object.

    Args:
        documents: Resources, ConfigMaps, Deployments and webhook configurations, as `kubectl get -o yaml` shows them.
        home: Namespace of the controller.
    """
    by_kind: dict[str, list[Object]] = {}
    for document in documents:
        by_kind.setdefault(str(document.body.get("kind")), []).append(document.body)
    layers = list(_layers(by_kind.get("ConfigMap", []), home))
    cluster = [layer for _, layer in layers if layer.level is Level.CLUSTER]
    findings = [
        Finding(problem.source, _sentence(problem), problem.fatal)
        for _, layer in layers
        for problem in read_config([layer]).problems
    ]
    config = read_config(cluster).config or read_config().config
    assert config is not None
    serving = [one for one in documents if str(one.body.get("apiVersion")).startswith(_SERVING)]
    # As the controller sees models: with the protocol that REST adds.
    known = [as_served(runtime, config) for runtime in declare(serving).runtimes]
    declared = declare([one for one in serving if not str(one.body.get("kind")).endswith("Runtime")], known=known)
    findings += _problems(declare(serving))
    findings += _runtimes(known, cluster, config, by_kind.get("Deployment", []))
    findings += _models(declared)
    for webhook in by_kind.get("ValidatingWebhookConfiguration", []):
        if webhook["metadata"]["name"] == OLD_WEBHOOK:
            findings.append(
                Finding(
                    f"ValidatingWebhookConfiguration {OLD_WEBHOOK}",
                    "delete it when the old controller stops: it has no server then, and no runtime can be changed",
                )
            )
    return findings


def _layers(config_maps: Iterable[Object], home: str) -> Iterator[tuple[str, Layer]]:
    for item in config_maps:
        metadata = item["metadata"]
        if metadata.get("name") == CONFIG_MAP:
            namespace = metadata.get("namespace") or home
            level = Level.CLUSTER if namespace == home else Level.NAMESPACE
            text = str((item.get("data") or {}).get(CONFIG_KEY, ""))
            yield namespace, Layer(level, f"ConfigMap {namespace}/{CONFIG_MAP}", text)


def _problems(declared: Declared) -> Iterator[Finding]:
    for problem in (*declared.problems, *declared.passed_over):
        yield Finding(problem.resource or problem.source, _sentence(problem), problem.fatal)


def _runtimes(
    runtimes: Sequence[Runtime], cluster: Sequence[Layer], config: Config, deployments: Sequence[Object]
) -> Iterator[Finding]:
    standing = {item["metadata"]["name"] for item in deployments}
    for runtime in runtimes:
        what = f"{'ClusterServingRuntime' if runtime.cluster_wide else 'ServingRuntime'} {runtime.name}"
        if not runtime.serves:
            yield Finding(what, f"gets no pods: it is {runtime.why_off}")
            continue
        layer = runtime_layer(runtime)
        own = read_config([*cluster, layer] if layer else cluster)
        problems = [*(own.problems if layer else ()), *check_runtime(runtime, own.config or config)]
        yield from (Finding(what, _sentence(problem), problem.fatal) for problem in problems)
        name = deployment_name(runtime, own.config or config)
        if name in standing:
            yield Finding(
                what, f"the Deployment {name} stays as it is, until the annotation modelmesh.io/roll says true"
            )
        else:
            yield Finding(what, f"gets the Deployment {name}")


def _models(declared: Declared) -> Iterator[Finding]:
    lost = {Verdict.NO_RUNTIME, Verdict.RUNTIME_UNKNOWN, Verdict.RUNTIME_OFF}
    for wanted in declared.wanted:
        keeps = f"keeps its id {wanted.model_id}; {wanted.choice.why}"
        yield Finding(wanted.resource, keeps, wanted.choice.verdict in lost)


def _sentence(problem: Problem) -> str:
    return f"{problem.path}: {problem.message}" if problem.path else problem.message


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """For machines."""
    return [{"what": one.what, "says": one.says, "stops": one.stops} for one in findings]
