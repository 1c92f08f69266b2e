"""JSON documents that operators write: type constraints and static registrations.

Each parser raises ValueError with a message that says where and what; unknown fields are ignored, as the old system did.
Source: `spec/cluster-state.md` 5.10 and 9.1.
"""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from modelmesh.policy.constraints import TypeConstraint, TypeConstraints

Parsed = TypeVar("Parsed")


class _Constraint(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    required: tuple[str, ...] = ()
    preferred: tuple[str, ...] = ()


class ModelInfo(BaseModel):
    """As in the API."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Annotated[str, Field(min_length=1)]
    path: str = ""
    key: str = ""


class StaticModel(BaseModel):
    """One model, or one vmodel with its model, that is registered at every start."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model_id: Annotated[str, Field(alias="modelId", min_length=1)]
    info: Annotated[ModelInfo, Field(alias="modelInfo")]
    vmodel_id: Annotated[str | None, Field(alias="vModelId")] = None
    retain: Annotated[bool, Field(alias="retainAfterTransition")] = False
    ensure_loaded: Annotated[bool, Field(alias="ensureLoaded")] = False

    @model_validator(mode="after")
    def _consistent(self) -> "StaticModel":
        if self.retain and not self.vmodel_id:
            raise ValueError("retainAfterTransition needs a vModelId")
        return self


_CONSTRAINTS: TypeAdapter[dict[str, _Constraint]] = TypeAdapter(dict[str, _Constraint])
_MODELS: TypeAdapter[list[StaticModel]] = TypeAdapter(list[StaticModel])


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


def parse_static_models(text: str) -> list[StaticModel]:
    """`[{"modelId": …, "modelInfo": {"type": …}, …}, …]`. Raises ValueError."""
    return _validated(_MODELS, text)


def _validated(adapter: TypeAdapter[Parsed], text: str) -> Parsed:
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error
