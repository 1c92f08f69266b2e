"""The kinds of resources, and many of them together: what must be in the mesh."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from modelmesh.declared.choice import Choice, Verdict, choose
from modelmesh.declared.documents import Document
from modelmesh.declared.inference_services import DEPLOYMENT_MODE, MESH_MODE, read_inference_service
from modelmesh.declared.predictors import read_predictor
from modelmesh.declared.problems import Fields, Findings, Problem, shown
from modelmesh.declared.runtimes import Runtime, read_runtime
from modelmesh.declared.spec import ModelSpec

GROUP = "serving.kserve.io"
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""As Kubernetes has it (RFC 1123 subdomain)."""

_RUNTIME_KINDS = ("ServingRuntime", "ClusterServingRuntime")
_MODEL_KINDS: Mapping[str, tuple[str, Callable[[Fields, Fields], ModelSpec]]] = {
    "Predictor": ("ksp", read_predictor),
    "InferenceService": ("isvc", read_inference_service),
}
"""Kind to owner and reader of (spec, annotations)."""

_VERSIONS = {
    "Predictor": "v1alpha1",
    "InferenceService": "v1beta1",
    "ServingRuntime": "v1alpha1",
    "ClusterServingRuntime": "v1alpha1",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One model that must be there, behind its vmodel.

    Attributes:
        source: Which document asked for it.
        resource: `InferenceService iris`.
        name: Of the vmodel.
        namespace: Of the resource; empty if it has none.
        owner: Of the vmodel: `isvc` or `ksp`.
        spec: The concrete model.
        choice: Which of the declared runtimes take it, and why.
    """

    source: str
    resource: str
    name: str
    namespace: str
    owner: str
    spec: ModelSpec
    choice: Choice

    @property
    def model_id(self) -> str:
        """Of the concrete model."""
        return self.spec.model_id(self.name, self.owner)


@dataclass(frozen=True, slots=True)
class Declared:
    """The content of all documents."""

    wanted: tuple[Wanted, ...] = ()
    runtimes: tuple[Runtime, ...] = ()
    problems: tuple[Problem, ...] = ()
    passed_over: tuple[Problem, ...] = ()
    """What is not for us, and what has no effect."""


@dataclass(slots=True)
class _Reading:
    problems: list[Problem] = field(default_factory=list)
    runtimes: dict[tuple[str, str, str], Runtime] = field(default_factory=dict)
    models: dict[tuple[str, str], "_Model"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Model:
    source: str
    resource: str
    owner: str
    spec: ModelSpec


def declare(documents: Iterable[Document], *, known: Iterable[Runtime] = ()) -> Declared:
    """Read resources of all four kinds.

    Args:
        documents: In any order.
        known: Further runtimes that models may choose, as those that are built in. One of the same name among the
            documents hides it.
    """
    reading = _Reading()
    for document in documents:
        _read(document, reading)
    own = tuple(reading.runtimes.values())
    hidden = {runtime.name for runtime in own}
    candidates = [*own, *(runtime for runtime in known if runtime.name not in hidden)]
    wanted = []
    for (namespace, name), model in reading.models.items():
        choice = choose(model.spec, candidates, namespace=namespace)
        wanted.append(Wanted(model.source, model.resource, name, namespace, model.owner, model.spec, choice))
        if choice.verdict is Verdict.PINNED_OTHER_FORMAT:
            reading.problems.append(Problem(model.source, model.resource, "spec", choice.why, fatal=False))
    return Declared(
        tuple(wanted),
        own,
        tuple(problem for problem in reading.problems if problem.fatal),
        tuple(problem for problem in reading.problems if not problem.fatal),
    )


def _read(document: Document, reading: _Reading) -> None:
    findings = Findings(document.source)
    body = Fields(document.body, "", findings)
    kind = body.text("kind", required=True)
    version = body.text("apiVersion", required=True)
    if kind is not None and version is not None and findings.usable:
        group, _, number = version.rpartition("/")
        if group != GROUP or kind not in _VERSIONS:
            known = ", ".join(_VERSIONS)
            findings.add(
                "kind", f"{shown(kind)} of {shown(version)} is passed over; read are {known} of {GROUP}", fatal=False
            )
        elif number != _VERSIONS[kind]:
            findings.add("apiVersion", f"must be {GROUP}/{_VERSIONS[kind]} for a {kind}, is {shown(version)}")
        else:
            _read_known(kind, body, findings, reading)
    reading.problems.extend(findings.problems)


def _read_known(kind: str, body: Fields, findings: Findings, reading: _Reading) -> None:
    metadata = body.fields("metadata")
    name = metadata.text("name", required=True)
    findings.resource = f"{kind} {shown(name)}" if name is not None else kind
    namespace = metadata.text("namespace") or ""
    annotations = metadata.texts("annotations")
    body.only(("apiVersion", "kind", "metadata", "spec", "status"))
    if name is not None and not NAME.fullmatch(name):
        metadata.problem("name", f"{shown(name)} is no name: lower-case letters, digits, - and . (at most 253)")
    if "spec" not in body:
        body.problem("spec", "is required")
        return
    spec, notes = body.fields("spec"), Fields(annotations or {}, metadata.at("annotations"), findings)
    if kind in _RUNTIME_KINDS:
        runtime = read_runtime(spec, notes, source=findings.source, kind=kind, name=name or "", namespace=namespace)
        if findings.usable:
            first = reading.runtimes.setdefault((kind, namespace, runtime.name), runtime)
            if first is not runtime:
                _taken(findings, first.source)
        return
    mode = (annotations or {}).get(DEPLOYMENT_MODE, MESH_MODE)
    if kind == "InferenceService" and mode != MESH_MODE:
        notes.problem(DEPLOYMENT_MODE, f"is {shown(mode)}, so that the resource is another system's", fatal=False)
        return
    owner, read = _MODEL_KINDS[kind]
    model = read(spec, notes)
    if findings.usable and name is not None:
        entry = _Model(findings.source, findings.resource, owner, model)
        standing = reading.models.setdefault((namespace, name), entry)  # kinds share names: each becomes a vmodel
        if standing is not entry:
            _taken(findings, standing.source)


def _taken(findings: Findings, first: str) -> None:
    findings.add("metadata.name", f"is taken already, at {first}")
