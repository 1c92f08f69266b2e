"""The statuses of many vmodels and models at a time, read from the store in batches."""

from collections.abc import Iterable, Mapping

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as mesh
from modelmesh.control.plane import ControlPlane
from modelmesh.control.view.records import Registered
from modelmesh.control.view.vmodels import StoredVModel
from modelmesh.management.models import describe
from modelmesh.management.vmodels import moving_status, status_of_record
from modelmesh.values.ids import ModelId, VModelId

_NOT_FOUND = mesh.ModelStatusInfo(status=mesh.ModelStatusInfo.NOT_FOUND)


async def read_vmodels(
    plane: ControlPlane, names: Iterable[VModelId]
) -> tuple[dict[VModelId, StoredVModel], list[pb.VModelStatus]]:
    """The records of vmodels, and their statuses as getVModelStatus answers them. Raises StoreError."""
    asked = tuple(names)
    records = await plane.vmodel_records.read_many(asked)
    models = dict.fromkeys(
        model for stored in records.values() for model in (stored.record.active, stored.record.target)
    )
    registered = await plane.models.read_many(tuple(models))
    return records, [pb.VModelStatus(id=name, status=_vmodel(plane, records.get(name), registered)) for name in asked]


async def read_models(plane: ControlPlane, names: Iterable[ModelId]) -> list[pb.ModelStatus]:
    """The statuses of models as getModelStatus answers them. Raises StoreError."""
    asked = tuple(names)
    registered = await plane.models.read_many(asked)
    return [pb.ModelStatus(id=name, status=_model(plane, name, registered)) for name in asked]


def _model(plane: ControlPlane, name: ModelId, registered: Mapping[ModelId, Registered]) -> mesh.ModelStatusInfo:
    found = registered.get(name)
    if found is None:
        return _NOT_FOUND
    return describe(plane.decider.model_view(name, found), now_ms=plane.clock.now_ms())


def _vmodel(
    plane: ControlPlane, stored: StoredVModel | None, registered: Mapping[ModelId, Registered]
) -> mesh.VModelStatusInfo:
    if stored is None:
        return mesh.VModelStatusInfo(status=mesh.VModelStatusInfo.NOT_FOUND)
    record = stored.record
    answer = status_of_record(record, _model(plane, record.active, registered))
    if record.active != record.target:
        answer.targetModelStatus.CopyFrom(moving_status(record, _model(plane, record.target, registered)))
    return answer
