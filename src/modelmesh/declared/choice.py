"""Which runtime takes a model, and why. Source: spec/serving-controller.md 3.2."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from modelmesh.declared.runtimes import Runtime
from modelmesh.declared.spec import ModelSpec


class Verdict(enum.Enum):
    """How the choice came out."""

    FITS = "fits"
    PINNED = "pinned"
    PINNED_OTHER_FORMAT = "pinned_other_format"
    RUNTIME_UNKNOWN = "runtime_unknown"
    RUNTIME_OFF = "runtime_off"
    NO_RUNTIME = "no_runtime"


@dataclass(frozen=True, slots=True)
class Choice:
    """The runtimes that may take a model.

    Attributes:
        runtimes: Names, in alphabetical order; the mesh places among them. Empty: none is declared.
        why: One sentence for people.
    """

    verdict: Verdict
    runtimes: tuple[str, ...]
    why: str


def choose(spec: ModelSpec, runtimes: Iterable[Runtime], *, namespace: str = "") -> Choice:
    """Choose among declared runtimes.

    A runtime of the namespace hides a cluster-wide one of the same name. A pinned runtime is used whatever formats it
    lists; a format that it does not list is reported early, because the load will fail late.
    """
    visible = _visible(runtimes, namespace)
    able = [runtime for runtime in visible if runtime.serves]
    if spec.runtime:
        return _pinned(spec, visible)
    fitting = sorted(runtime.name for runtime in able if set(spec.labels) <= runtime.labels)
    if fitting:
        return Choice(
            Verdict.FITS,
            tuple(fitting),
            f"{', '.join(fitting)} {'lists' if len(fitting) == 1 else 'list'} {_asked(spec)}",
        )
    near = [
        f"{runtime.name} only if it is named as the model's runtime (no autoSelect)"
        for runtime in able
        if runtime.lists(spec.format, spec.format_version)
        and not any(label.startswith("mt:") and label in runtime.labels for label in spec.labels)
    ]
    near += [
        f"{runtime.name} implements {', '.join(runtime.protocols) or 'no declared protocol'}"
        for runtime in able
        if spec.labels[0] in runtime.labels
    ]
    near += [
        f"{runtime.name} is switched off"
        for runtime in visible
        if not runtime.serves and set(spec.labels) <= runtime.labels
    ]
    return Choice(
        Verdict.NO_RUNTIME, (), f"no declared runtime takes {_asked(spec)}{': ' if near else ''}{'; '.join(near)}"
    )


def _pinned(spec: ModelSpec, visible: list[Runtime]) -> Choice:
    assert spec.runtime is not None
    found = next((runtime for runtime in visible if runtime.name == spec.runtime), None)
    if found is None:
        return Choice(Verdict.RUNTIME_UNKNOWN, (), f"the runtime {spec.runtime}, which it names, is not declared")
    if not found.serves:
        return Choice(Verdict.RUNTIME_OFF, (), f"the runtime {spec.runtime}, which it names, is {found.why_off}")
    if not found.lists(spec.format, spec.format_version):
        return Choice(
            Verdict.PINNED_OTHER_FORMAT,
            (spec.runtime,),
            f"the runtime {spec.runtime}, which it names, does not list {_asked(spec)}; the load may fail",
        )
    return Choice(Verdict.PINNED, (spec.runtime,), f"it names the runtime {spec.runtime}")


def _visible(runtimes: Iterable[Runtime], namespace: str) -> list[Runtime]:
    found: dict[str, Runtime] = {}
    for runtime in runtimes:
        if runtime.cluster_wide:
            found.setdefault(runtime.name, runtime)
        elif runtime.namespace == namespace:
            found[runtime.name] = runtime
    return list(found.values())


def _asked(spec: ModelSpec) -> str:
    version = f" {spec.format_version}" if spec.format_version else ""
    protocol = f" by {spec.protocol_version}" if spec.protocol_version else ""
    return f"{spec.format}{version}{protocol}"
