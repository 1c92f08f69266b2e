"""Instances that come: models whose loads failed are looked at again, because they may be loaded there."""

from random import Random

from modelmesh.kubernetes.loop.mesh import Mesh
from modelmesh.kubernetes.loop.models import _can_load
from modelmesh.kubernetes.values import MeshModel, MeshState, MeshTransition, MeshVModel
from modelmesh.testing.clock import VirtualClock


def vmodel(state: MeshState, error: str = "") -> MeshVModel:
    model = MeshModel(state, (error,) if error else ())
    return MeshVModel(MeshTransition.DEFINED, "m-1", "m-1", "isvc", model)


FAILED = vmodel(MeshState.FAILED, "the claim is not mounted here")


async def test_a_new_instance_is_told_for_the_models_that_failed_only() -> None:
    told: list[str | None] = []
    mesh = Mesh(dial=lambda _: None, resources=lambda: (), clock=VirtualClock(), rng=Random(1), changed=told.append)
    mesh._vmodels = {"failed": FAILED, "loaded": vmodel(MeshState.LOADED)}
    mesh.use(["a:1"])
    mesh.use(["a:1", "b:1"])
    mesh.use(["b:1"])
    mesh.use(["b:1"])
    assert told == [None, "failed"]  # that there is a mesh at all, and the second instance
    assert mesh.arrivals == 2


def test_a_failed_load_is_tried_again_where_instances_came() -> None:
    assert not _can_load(FAILED, came=False)
    assert _can_load(FAILED, came=True)
    assert not _can_load(vmodel(MeshState.LOADING), came=True)
    assert not _can_load(vmodel(MeshState.LOADED), came=True)
