"""JSON documents that operators write: type constraints, data-plane configuration, static registrations.

Each parser raises ValueError with a message that names the place and the problem. Unknown fields are ignored or refused as the old system did.
Source: `spec/cluster-state.md` 5.10, 9.1 and 9.3.
"""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from modelmesh.management.static import StaticModel
from modelmesh.policy.constraints import TypeConstraint, TypeConstraints
from modelmesh.policy.methods import AllowedMethods
from modelmesh.values.dataplane import MethodRule

Parsed = TypeVar("Parsed")
FieldNumber = Annotated[int, Field(ge=1, lt=2**29)]


class _Constraint(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    required: tuple[str, ...] = ()
    preferred: tuple[str, ...] = ()


class _Rpc(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    extraction_path: Annotated[tuple[FieldNumber, ...], Field(alias="idExtractionPath", max_length=16)] = ()
    vmodel: Annotated[bool, Field(alias="vModelId")] = False
    header_first: Annotated[bool, Field(alias="headerFirst")] = False
    idempotent: bool = True


class _DataPlane(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rpcs: Annotated[dict[Annotated[str, Field(pattern=r"^/?[^/\s]+/[^/\s]+$")], _Rpc], Field(alias="rpcConfigs")] = (
        Field(default_factory=dict)
    )
    allow_others: Annotated[bool, Field(alias="allowOtherRpcs")] = False


class _Info(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Annotated[str, Field(min_length=1)]
    path: str = ""
    key: str = ""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    model: Annotated[str, Field(alias="modelId", min_length=1)]
    info: Annotated[_Info, Field(alias="modelInfo")]
    vmodel: Annotated[str | None, Field(alias="vModelId")] = None
    retain: Annotated[bool, Field(alias="retainAfterTransition")] = False
    ensure_loaded: Annotated[bool, Field(alias="ensureLoaded")] = False

    @model_validator(mode="after")
    def _consistent(self) -> "_Model":
        if self.retain and not self.vmodel:
            raise ValueError("retainAfterTransition needs a vModelId")
        return self


_CONSTRAINTS: TypeAdapter[dict[str, _Constraint]] = TypeAdapter(dict[str, _Constraint])
_DATA_PLANE: TypeAdapter[_DataPlane] = TypeAdapter(_DataPlane)
_MODELS: TypeAdapter[list[_Model]] = TypeAdapter(list[_Model])


def parse_constraints(text: str) -> TypeConstraints:
    """`{"<type>": {"required": […], "preferred": […]}, "_default": …}`. Raises ValueError."""
    parsed = _validated(_CONSTRAINTS, text)
    return TypeConstraints(
        {
            model_type: TypeConstraint(
                required=tuple(sorted(set(rule.required))),
                preferred=tuple(sorted(set(rule.preferred) - set(rule.required))),
            )
            for model_type, rule in parsed.items()
            if rule.required or rule.preferred
        }
    )


def parse_methods(text: str) -> AllowedMethods:
    """`{"rpcConfigs": {"p.S/M": {"idExtractionPath": [1], "vModelId": false}}, "allowOtherRpcs": false}`. Raises ValueError.

    Two keys are ours. `"idempotent": false`: a call that may have reached a runtime is not repeated elsewhere.
    `"headerFirst": true`: a header that names a model wins over the message.
    """
    parsed = _validated(_DATA_PLANE, text)
    rules = [
        MethodRule(
            method.removeprefix("/"),
            extraction_path=rpc.extraction_path,
            extracts_vmodel=rpc.vmodel,
            header_first=rpc.header_first,
            idempotent=rpc.idempotent,
        )
        for method, rpc in parsed.rpcs.items()
    ]
    return AllowedMethods(tuple(rules), parsed.allow_others)


def parse_static_models(text: str) -> list[StaticModel]:
    """`[{"modelId": …, "modelInfo": {"type": …}, …}, …]`. Raises ValueError."""
    return [
        StaticModel(
            one.model,
            one.info.type,
            one.info.path,
            one.info.key,
            vmodel=one.vmodel or "",
            retain=one.retain,
            ensure_loaded=one.ensure_loaded,
        )
        for one in _validated(_MODELS, text)
    ]


def _validated(adapter: TypeAdapter[Parsed], text: str) -> Parsed:
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error
