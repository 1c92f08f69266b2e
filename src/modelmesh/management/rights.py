"""What a caller must be allowed to do for each method that Python answers on the serving port.

Every method is listed here: one that is not is refused where access rules are in force. Where a name may be that of a model
or of a vmodel, either right lets the call in, and its handler looks again once it knows what the name is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelmesh.values.access import Kind, Verb
from modelmesh.values.dataplane import OPEN_METHODS
from modelmesh.values.legacy import full_names

_INFERENCE = "inference.GRPCInferenceService"


@dataclass(frozen=True, slots=True)
class Need:
    """One right; of any of `kinds`. `name` None: for all models, as questions about the whole cluster need it."""

    verb: Verb
    name: str | None
    kinds: tuple[Kind, ...] = (Kind.MODEL,)


_VMODEL = (Kind.VMODEL,)
_EITHER = (Kind.VMODEL, Kind.MODEL)
_ALL = (Need(Verb.STATUS, None),)


def _set_vmodel(request: Any) -> Sequence[Need]:
    """Who moves a vmodel gives its callers the target, so both must be the caller's to change."""
    return (Need(Verb.REGISTER, request.vModelId, _VMODEL), Need(Verb.REGISTER, request.targetModelId))


def _set_split(request: Any) -> Sequence[Need]:
    return (
        Need(Verb.ADMIN, request.vmodel_id, _VMODEL),
        *(Need(Verb.ADMIN, share.model_id) for share in request.split),
    )


def _register(request: Any) -> Sequence[Need]:
    needs = (Need(Verb.REGISTER, request.modelId),)
    return (*needs, Need(Verb.LOAD, request.modelId)) if request.loadNow else needs


def _set_labels(request: Any) -> Sequence[Need]:
    return (
        Need(Verb.ADMIN, request.vmodel_id, _VMODEL),
        *(Need(Verb.ADMIN, label.model_id) for label in request.labels if label.model_id),
    )


_OF_MESH: Mapping[str, Callable[[Any], Sequence[Need]]] = {
    "registerModel": _register,
    "unregisterModel": lambda request: (Need(Verb.REGISTER, request.modelId),),
    "getModelStatus": lambda request: (Need(Verb.STATUS, request.modelId),),
    "ensureLoaded": lambda request: (Need(Verb.LOAD, request.modelId),),
    "setVModel": _set_vmodel,
    "deleteVModel": lambda request: (Need(Verb.REGISTER, request.vModelId, _VMODEL),),
    "getVModelStatus": lambda request: (Need(Verb.STATUS, request.vModelId, _VMODEL),),
}

NEEDS: Mapping[str, Callable[[Any], Sequence[Need]]] = {
    **{name: needs for method, needs in _OF_MESH.items() for name in full_names(method)},
    # What may not be seen is left out of listings.
    "modelmesh.v1.Admin/ListModels": lambda _: (),
    "modelmesh.v1.Admin/ListVModels": lambda _: (),
    "modelmesh.v1.Admin/UnloadModel": lambda request: (Need(Verb.LOAD, request.model_id),),
    "modelmesh.v1.Admin/SetCopies": lambda request: (Need(Verb.ADMIN, request.model_id),),
    "modelmesh.v1.Admin/SetSplit": _set_split,
    "modelmesh.v1.Admin/SetLabels": _set_labels,
    "modelmesh.v1.Admin/SetFallback": lambda request: (
        Need(Verb.ADMIN, request.vmodel_id, _VMODEL),
        *((Need(Verb.ADMIN, request.model_id),) if request.model_id else ()),
    ),
    "modelmesh.v1.Admin/SetShadow": lambda request: (
        Need(Verb.ADMIN, request.vmodel_id, _VMODEL),
        *((Need(Verb.ADMIN, request.shadow.model_id),) if request.HasField("shadow") else ()),
    ),
    "modelmesh.v1.Admin/SetRollout": lambda request: (
        Need(Verb.ADMIN, request.vmodel_id, _VMODEL),
        *((Need(Verb.ADMIN, request.plan.model_id),) if request.HasField("plan") else ()),
    ),
    "modelmesh.v1.Admin/CountVModel": lambda request: (Need(Verb.STATUS, request.vmodel_id, _VMODEL),),
    "modelmesh.v1.Admin/ListTenants": lambda _: _ALL,
    "modelmesh.v1.Admin/GetUsage": lambda _: _ALL,
    "modelmesh.v1.Admin/ListInstances": lambda _: _ALL,
    "modelmesh.v1.Admin/Explain": lambda request: (Need(Verb.STATUS, request.model_id, _EITHER),),
    "modelmesh.v1.Admin/Fit": lambda _: _ALL,
    "modelmesh.v1.Admin/WatchEvents": lambda request: (
        (Need(Verb.STATUS, request.model_id),) if request.model_id else _ALL
    ),
    "modelmesh.v1.Admin/WatchStatus": lambda _: (Need(Verb.STATUS, None), Need(Verb.STATUS, None, _VMODEL)),
    # Each model is answered for itself.
    "modelmesh.v1.Admin/RegisterModels": lambda _: (),
    "modelmesh.v1.Admin/SetVModels": lambda request: [need for one in request.requests for need in _set_vmodel(one)],
    # What it is asked to do needs the rights of that method.
    "modelmesh.v1.Console/Ask": lambda _: (),
    "modelmesh.v1.Console/Look": lambda _: _ALL,
    f"{_INFERENCE}/ServerMetadata": lambda _: (),
    f"{_INFERENCE}/RepositoryIndex": lambda _: (),
    f"{_INFERENCE}/RepositoryModelLoad": lambda request: (Need(Verb.LOAD, request.model_name, _EITHER),),
    f"{_INFERENCE}/RepositoryModelUnload": lambda request: (Need(Verb.LOAD, request.model_name, _EITHER),),
    # What services there are is no secret, once it is known who asks.
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo": lambda _: (),
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": lambda _: (),
    **{method: lambda _: () for method in OPEN_METHODS},
}
