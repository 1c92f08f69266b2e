"""Which inference methods exist, and where they carry model ids.

The runtime reports its methods and where it wants the id injected. The operator
allows methods and configures where clients put the id. Called by `modelmesh.control.requests.rules`.
Source: `spec/api-config-tests.md` 2.2 and 3.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from modelmesh.values.dataplane import MethodRule

_INFERENCE = "inference.GRPCInferenceService/"
_INFER = f"{_INFERENCE}ModelInfer"
_SIBLINGS = (f"{_INFERENCE}ModelReady", f"{_INFERENCE}ModelMetadata")
"""Of the Open Inference Protocol: their messages have the id where those of `ModelInfer` have it, in field 1. Configurations
and runtimes that were written before us name only some of them."""

_MODEL_NAME = (1,)
"""Where the messages of all three have the model's name."""

_VERSION = 2
"""Where they have its version."""


@dataclass(frozen=True, slots=True)
class AllowedMethods:
    """What the operator allows; by default everything."""

    methods: tuple[MethodRule, ...] = ()
    allow_others: bool = True


@dataclass(frozen=True, slots=True)
class RuntimeMethods:
    """What the runtime reports: (method, injection path) pairs, and whether it takes others as well."""

    injection_paths: Sequence[tuple[str, tuple[int, ...]]] = ()
    allows_others: bool = True


def combine(runtime: RuntimeMethods, allowed: AllowedMethods) -> AllowedMethods:
    """The rules in force: both must allow a method, and its options are those of both.

    Without a configuration of the operator, calls of the Open Inference Protocol need no header: without one the model
    that the message names is called. So clients that know nothing of a mesh work.
    """
    injections = dict(runtime.injection_paths)
    configured = {rule.method: rule for rule in allowed.methods}
    takes_others = runtime.allows_others or not injections
    for sibling in _SIBLINGS:  # those that are allowed as others; what an operator does not allow stays refused
        if _INFER in injections and takes_others:
            injections.setdefault(sibling, injections[_INFER])
        if _INFER in configured and allowed.allow_others:
            configured.setdefault(sibling, replace(configured[_INFER], method=sibling, idempotent=True))
    if allowed.allow_others:
        for method in (_INFER, *_SIBLINGS):
            if method in injections or takes_others:
                configured.setdefault(method, MethodRule(method, _MODEL_NAME, header_first=True))
    rules = [
        replace(
            configured.get(method, MethodRule(method)),
            injection_path=injections.get(method, ()),
            version_field=_VERSION if method in {_INFER, *_SIBLINGS} else 0,
        )
        for method in dict.fromkeys((*injections, *configured))
        if (method in injections or takes_others) and (method in configured or allowed.allow_others)
    ]
    return AllowedMethods(tuple(rules), takes_others and allowed.allow_others)
