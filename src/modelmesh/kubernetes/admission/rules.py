"""Rules over resources in CEL, the language in which the API server checks them.

`SPEC` is replaced by the resource's spec: `self` in a definition, `object.spec` in a policy. Source: spec/serving-controller.md
1.1 to 1.4.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        check: CEL; what must hold.
        message: The error if it does not.
        names: CEL; the same sentence with what is wrong. Empty: as `message`.
        costly: Whether `names` costs more than the API server allows in a definition.
    """

    check: str
    message: str
    names: str = ""
    costly: bool = False

    def in_definition(self, guard: str = "") -> dict[str, Any]:
        """As an entry of `x-kubernetes-validations` of a spec."""
        return self._entry("rule", "self", guard, named=not self.costly)

    def in_policy(self) -> dict[str, Any]:
        """As an entry of a policy's `validations`."""
        return self._entry("expression", "object.spec", "", named=True)

    def _entry(self, name: str, spec: str, guard: str, *, named: bool) -> dict[str, Any]:
        check = f"!({guard}) || ({self.check})" if guard else self.check
        found = {name: _flat(check).replace("SPEC", spec), "message": self.message}
        return (
            {**found, "messageExpression": _flat(self.names).replace("SPEC", spec)} if self.names and named else found
        )


def _flat(expression: str) -> str:
    return " ".join(expression.split())


def _list(texts: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"'{text}'" for text in texts) + "]"


MULTI_MODEL = "has(SPEC.multiModel) && SPEC.multiModel"
_CONTAINERS = ("mm", "rest-proxy", "puller")
_MOUNTS = ("storage-config", "etcd-config", "tc-config", "domain-socket")
_PORT_NAMES = ("grpc", "http", "prometheus")
_PORTS = (2112, 8008, 8033, 8080, 8085, 8086, 8089, 8090)


def _endpoint(name: str) -> Rule:
    value = f"SPEC.{name}"
    return Rule(
        f"!has({value}) || {value} == '' || {value}.matches('^unix:(//)?/.+$')"
        f" || ({value}.matches('^port:[0-9]{{1,5}}$') && int({value}.substring(5)) >= 1 && int({value}.substring(5)) <= 65535)",
        f"{name}: must be port:N with 1 to 65535, or unix:/PATH",
        f"'{name}: must be port:N with 1 to 65535, or unix:/PATH, is ' + {value}",
    )


def _reserved(items: str, item: str, field: str, taken: tuple[str, ...], kind: str) -> Rule:
    """No item has a name of ours. `items` is a CEL expression of a flat list of names."""
    wrong = f"({item} in {_list(taken)} || {item}.startsWith('mm-'))"
    return Rule(
        f"{items}.all({item}, !{wrong})",
        f"{field}: is the name of a {kind} of ours: {', '.join(taken)} and mm-…",
        f"'{field}: ' + {items}.filter({item}, {wrong})[0] + ' is the name of a {kind} of ours'",
    )


def _inner(field: str, value: str, *, default: str = "''") -> str:
    """CEL: for each container, the values of a field of one of its lists."""
    return f"SPEC.containers.map(c, has(c.{field}) ? c.{field}.map(x, has(x.{value}) ? x.{value} : {default}) : [])"


def _reserved_inside(field: str, taken: tuple[str, ...], kind: str) -> Rule:
    lists = _inner(field, "name")
    wrong = f"(n in {_list(taken)} || n.startsWith('mm-'))"
    return Rule(
        f"{lists}.all(names, names.all(n, !{wrong}))",
        f"containers.{field}.name: is the name of a {kind} of ours: {', '.join(taken)} and mm-…",
        f"'containers.{field}.name: ' + {lists}.filter(names, names.exists(n, {wrong}))[0].filter(n, {wrong})[0]"
        f" + ' is the name of a {kind} of ours'",
        costly=True,
    )


_NUMBERS = _inner("ports", "containerPort", default="0")
_TAKEN = f"(p in {list(_PORTS)} || (p >= 11881 && p <= 11899))"

RUNTIME: tuple[Rule, ...] = (
    Rule(
        "has(SPEC.grpcEndpoint) && SPEC.grpcEndpoint != ''",
        "grpcEndpoint: is required of a multi-model runtime: port:N or unix:PATH",
    ),
    _endpoint("grpcEndpoint"),
    _endpoint("grpcDataEndpoint"),
    Rule(
        """!has(SPEC.grpcEndpoint) || !SPEC.grpcEndpoint.matches('^unix:.*/')
        || !has(SPEC.grpcDataEndpoint) || !SPEC.grpcDataEndpoint.matches('^unix:.*/')
        || SPEC.grpcEndpoint.replace('unix://', '').replace('unix:', '').split('/').size()
           == SPEC.grpcDataEndpoint.replace('unix://', '').replace('unix:', '').split('/').size()
        && SPEC.grpcEndpoint.replace('unix://', '').replace('unix:', '').startsWith(
           SPEC.grpcDataEndpoint.replace('unix://', '').replace('unix:', '').substring(0,
           SPEC.grpcDataEndpoint.replace('unix://', '').replace('unix:', '').lastIndexOf('/') + 1))""",
        "grpcDataEndpoint: must be a socket in the folder of grpcEndpoint",
    ),
    Rule(
        "!has(SPEC.builtInAdapter) || SPEC.containers.exists(c, c.name == SPEC.builtInAdapter.serverType)",
        "builtInAdapter.serverType: needs a container of that name",
        "'builtInAdapter.serverType: needs a container of that name: ' + SPEC.builtInAdapter.serverType",
    ),
    Rule(
        "!has(SPEC.builtInAdapter) || !has(SPEC.grpcEndpoint) || !SPEC.grpcEndpoint.startsWith('unix:')",
        "grpcEndpoint: must be port:N with a built-in adapter",
    ),
    _reserved("SPEC.containers.map(c, c.name)", "n", "containers.name", _CONTAINERS, "container"),
    Rule(
        "SPEC.containers.all(c, SPEC.containers.exists_one(d, d.name == c.name))",
        "containers.name: a name is there twice",
    ),
    Rule(
        "SPEC.containers.all(c, !has(c.readinessProbe) && !has(c.lifecycle))",
        "containers: readinessProbe and lifecycle are set by the mesh; take them away",
        """'containers: readinessProbe and lifecycle are set by the mesh; take them away from '
        + SPEC.containers.filter(c, has(c.readinessProbe) || has(c.lifecycle))[0].name""",
        costly=True,
    ),
    _reserved_inside("volumeMounts", _MOUNTS, "volume"),
    _reserved_inside("ports", _PORT_NAMES, "port"),
    Rule(
        f"{_NUMBERS}.all(ports, ports.all(p, !{_TAKEN}))",
        f"containers.ports.containerPort: is taken: {', '.join(map(str, _PORTS))} and 11881 to 11899 are ours",
        f"'containers.ports.containerPort: ' + string({_NUMBERS}.filter(ports, ports.exists(p, {_TAKEN}))[0].filter(p, {_TAKEN})[0]) + ' is taken'",
        costly=True,
    ),
    _reserved(
        "(has(SPEC.volumes) ? SPEC.volumes.map(v, v.name) : [])",
        "n",
        "volumes.name",
        (*_MOUNTS, "models-dir"),
        "volume",
    ),
)
"""Of multi-model runtimes."""

PREDICTOR: tuple[Rule, ...] = (
    Rule(
        "!has(SPEC.path) || SPEC.path == '' || !has(SPEC.storage) || !has(SPEC.storage.path)",
        "Only one of spec.path and spec.storage.path can be specified",
    ),
    Rule(
        "!has(SPEC.schemaPath) || !has(SPEC.storage) || !has(SPEC.storage.schemaPath)",
        "Only one of spec.schemaPath and spec.storage.schemaPath can be specified",
    ),
    Rule(
        "!has(SPEC.storage) || !has(SPEC.storage.persistentVolumeClaim)",
        "spec.storage.PersistentVolumeClaim is not supported; use parameters: {type: pvc, name: CLAIM}",
    ),
    Rule(
        """!has(SPEC.storage) || !has(SPEC.storage.s3)
        || !(has(SPEC.storage.path) || has(SPEC.storage.schemaPath) || has(SPEC.storage.parameters) || has(SPEC.storage.key))""",
        "spec.storage.s3 cannot be specified with any other keys in spec.storage",
    ),
)
