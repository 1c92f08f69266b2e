"""Holds the Helm chart to what Kustomize makes: `python deploy/helm/check.py HELM KUSTOMIZE OUT`.

Both must give the same objects, for a cluster and for one namespace. Each value must have its effect, and an unknown one
must be refused. What the chart makes of `ci/everything-values.yaml` is written to OUT.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "modelmesh-serving"
EVERYTHING = CHART / "ci" / "everything-values.yaml"
NAMESPACE = "modelmesh-serving"
KUBERNETES = "1.37"
OF_CLUSTER = ("Cluster", "ValidatingAdmissionPolicy")
"""Kinds without a namespace, to which Kustomize adds one all the same; the API server does not look at it."""

Name = tuple[str, str, str]
Objects = Mapping[Name, Any]


class ChartError(Exception):
    """A rendering is not as it must be; the text says where."""


def run(*words: str | Path) -> str:
    """The output of a command. Raises ChartError."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT)  # noqa: S603
    if done.returncode:
        raise ChartError(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def objects(text: str) -> Objects:
    """Objects by kind, namespace and name. Raises ChartError if one is there twice, or there is none."""
    found: dict[Name, Any] = {}
    for item in yaml.safe_load_all(text):
        if item is not None:
            if item["kind"].startswith(OF_CLUSTER):
                item["metadata"].pop("namespace", None)
            name = (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])
            if name in found:
                raise ChartError(f"{' '.join(name)} is there twice")
            found[name] = item
    if not found:
        raise ChartError("there are no objects")
    return found


def differences(one: Any, other: Any, path: str) -> Iterator[str]:
    """Paths of fields that differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            where = f"{path}.{key}"
            if key in one and key in other:
                yield from differences(one[key], other[key], where)
            else:
                yield f"{where} is only in {'one' if key in one else 'the other'}"
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differences(left, right, f"{path}[{number}]")
    elif one != other or type(one) is not type(other):
        yield f"{path}: {one!r} and {other!r}"


def must_be_same(what: str, chart: Objects, kustomize: Objects) -> None:
    """Raises ChartError for objects that differ."""
    named = {" ".join(name): item for name, item in chart.items()}
    expected = {" ".join(name): item for name, item in kustomize.items()}
    found = list(differences(named, expected, ""))
    if found:
        raise ChartError("\n".join([f"the chart (one) and {what} (the other) differ:", *found]))


def must_have(what: str, found: Any, expected: Any) -> None:
    """Raises ChartError for another value than the expected one."""
    if found != expected:
        raise ChartError(f"{what} is {found!r}, not {expected!r}")


def check_values(found: Objects) -> None:
    """Whether each value of `ci/everything-values.yaml` has its effect. Raises ChartError."""
    controller = found["Deployment", NAMESPACE, "modelmesh-controller"]["spec"]
    pod = controller["template"]["spec"]
    manager = pod["containers"][0]
    must_have("replicas", controller["replicas"], 3)
    must_have("the controller's image", manager["image"], "registry.example/modelmesh:1.0")
    must_have(
        "resources",
        manager["resources"],
        {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
    )
    environment = {one["name"]: one.get("value") for one in manager["env"]}
    must_have("ETCD_SECRET_NAME", environment.get("ETCD_SECRET_NAME"), "mesh-etcd")
    must_have("nodeSelector", pod["nodeSelector"], {"pool": "system"})
    must_have("tolerations", pod["tolerations"], [{"key": "system", "operator": "Exists"}])
    must_have("imagePullSecrets", pod["imagePullSecrets"], [{"name": "registry"}])
    rules = found["ClusterRole", "", "modelmesh-controller-role"]["rules"]
    secrets = [rule["resourceNames"] for rule in rules if rule["resources"] == ["secrets"]]
    must_have("the Secrets of the role", secrets, [["mesh-etcd", "models", "mesh-tls"], ["mesh-etcd"]])
    connection = found["Secret", NAMESPACE, "mesh-etcd"]["stringData"]["etcd_connection"]
    must_have(
        "etcd_connection",
        yaml.safe_load(connection),
        {"endpoints": "https://etcd.example:2379", "root_prefix": "mesh"},
    )
    given = yaml.safe_load(EVERYTHING.read_text())
    config = found["ConfigMap", NAMESPACE, "model-serving-config"]["data"]["config.yaml"]
    images = {"modelMeshImage": given["image"], "storageHelperImage": given["adapterImage"]}
    made = yaml.safe_load(config)
    for key, image in images.items():
        must_have(key, {name: text for name, text in made.pop(key).items() if name in image}, image)
    must_have("the configuration", made, {**given["config"], "imagePullSecrets": [{"name": "registry"}]})
    runtime = found["ClusterServingRuntime", "", "modelmesh-1.x"]["spec"]["containers"][0]
    must_have("the built-in runtime's image", runtime["image"], "registry.example/runtime:2.0")
    policies = [name for kind, _, name in found if kind.startswith("ValidatingAdmissionPolicy")]
    must_have("the policies", policies, [])


def check(helm: Path, kustomize: Path, out: Path) -> None:
    """Raises ChartError for the first thing that is not as it must be."""
    template = [helm, "template", "modelmesh", CHART, "--namespace", NAMESPACE, "--kube-version", KUBERNETES]
    run(helm, "lint", "--strict", CHART, "--values", EVERYTHING)
    for words, folder in (
        (["--include-crds"], "serving"),
        (["--skip-crds", "--set", "namespaceScope=true"], "overlays/serving-namespace-scope"),
    ):
        expected = objects(run(kustomize, "build", f"deploy/kubernetes/{folder}"))
        must_be_same(f"deploy/kubernetes/{folder}", objects(run(*template, *words)), expected)
    text = run(*template, "--values", EVERYTHING)
    check_values(objects(text))
    out.write_text(text)
    try:
        run(*template, "--set", "replica=2")
    except ChartError:
        return
    raise ChartError("the chart takes a value that it does not know: replica")


def main() -> int:
    """Print the first error; 1 if there is one."""
    try:
        check(*(Path(word).absolute() for word in sys.argv[1:]))
    except ChartError as error:
        print(f"deploy/helm: {error}", file=sys.stderr)  # noqa: T201 - make shows it
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
