"""Rollouts over real processes: one model is promoted, another is rolled back, and metrics say so."""

import asyncio
import json
from collections import Counter

import grpc
import pytest
from conftest import PREDICT, Mesh, StartMesh, eventually
from test_commands import command
from test_metrics import free_port, scrape

from modelmesh._proto import admin_pb2 as admin_pb
from modelmesh._proto import example_predictor_pb2 as predictor_pb
from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.testing.scripted_runtime import ScriptedError
from modelmesh.values.status import Status

pytestmark = pytest.mark.process

LABELS = ("vModelId", "modelId", "state")
GOOD, BAD = "good", "bad"
"""The vmodels: `good` is rolled out to a model that answers, `bad` to one that fails."""


async def vmodels(mesh: Mesh) -> dict[str, admin_pb.VModel]:
    answer = await mesh.call(
        "modelmesh.v1.Admin/ListVModels", admin_pb.ListVModelsRequest(), admin_pb.ListVModelsResponse
    )
    return {vmodel.id: vmodel for vmodel in answer.vmodels}


async def keep_calling(mesh: Mesh, until: asyncio.Event) -> Counter[tuple[str, str]]:
    """Calls both vmodels at both instances; how often each answered with which status."""
    answers: Counter[tuple[str, str]] = Counter()
    number = 0
    while not until.is_set():
        vmodel, via = (GOOD, BAD)[number % 2], number // 2 % 2
        number += 1
        try:
            request = predictor_pb.PredictRequest(text="hello")
            metadata = [("mm-vmodel-id", vmodel)]
            await mesh.call(PREDICT, request, predictor_pb.PredictResponse, via=via, metadata=metadata)
            answers[vmodel, "OK"] += 1
        except grpc.aio.AioRpcError as error:
            answers[vmodel, error.details() or ""] += 1
    return answers


async def told(urls: list[str], name: str) -> dict[tuple[str, ...], float]:
    """The series of a gauge at all instances, of which one leads, by the values of their labels."""
    found = [metric for url in urls if (metric := (await scrape(url)).get(name)) is not None]
    return {
        tuple(sample.labels[label] for label in LABELS if label in sample.labels): sample.value
        for metric in found
        for sample in metric.samples
    }


async def until_told(urls: list[str], name: str, expected: dict[tuple[str, ...], float]) -> None:
    """Until the leader reports these values of a gauge, and no others but zeros."""

    async def so() -> bool:
        return {labels: value for labels, value in (await told(urls, name)).items() if value} == expected

    await eventually(so, within=30)


async def started(start_mesh: StartMesh) -> tuple[Mesh, list[str]]:
    """Two instances, and where their metrics are. Both vmodels are `old`; one of the models fails every call."""
    ports = {1: free_port(), 2: free_port()}
    mesh = await start_mesh(
        2,
        own_environment={
            number: {"MM_METRICS": f"prometheus:port={port};scheme=http"} for number, port in ports.items()
        },
    )
    for model in ("old", "new", "broken"):
        await mesh.register(model)
    for runtime in mesh.runtimes:
        runtime.predict_failures["broken"] = ScriptedError(Status.INTERNAL, "so it was told")
    for vmodel in (GOOD, BAD):
        request = pb.SetVModelRequest(vModelId=vmodel, targetModelId="old")
        await mesh.call("mmesh.ModelMesh/setVModel", request, pb.VModelStatusInfo)
    return mesh, [f"http://127.0.0.1:{port}/metrics" for port in ports.values()]


async def call_until_decided(mesh: Mesh) -> None:
    """Call until both rollouts have ended; only callers of the one that fails get errors."""
    ended = asyncio.Event()
    calling = asyncio.ensure_future(keep_calling(mesh, ended))

    async def over() -> bool:
        assert not calling.done()
        found = await vmodels(mesh)
        decided = all(one.rollout.state != admin_pb.Rollout.RUNNING for one in found.values())
        return decided and found[GOOD].active_model_id == "new"

    await eventually(over, within=90)
    ended.set()
    answers = await calling
    assert {(vmodel, answer) for vmodel, answer in answers if answer != "OK"} == {(BAD, "so it was told")}


async def test_one_model_is_promoted_and_another_is_rolled_back(start_mesh: StartMesh) -> None:
    mesh, urls = await started(start_mesh)
    at = ["--address", mesh.cluster.instances[0].endpoint]
    plan = ["--steps", "30,60", "--calls", "20", "--seconds", "0", "--errors", "5", "--slower", "10000", *at]
    for vmodel, model in ((GOOD, "new"), (BAD, "broken")):
        status, output, error = await command("vmodels", "rollout", vmodel, model, *plan)
        assert (status, output) == (0, f"{vmodel}: 30 % to {model}, then 60 %, all\n"), error
    await until_told(urls, "modelmesh_rollout_step", {(BAD, "broken"): 1, (GOOD, "new"): 1})
    await until_told(urls, "modelmesh_rollout_share", {(BAD, "broken"): 30, (GOOD, "new"): 30})
    await call_until_decided(mesh)
    found = await vmodels(mesh)
    assert (found[GOOD].rollout.state, found[GOOD].active_model_id) == (admin_pb.Rollout.PROMOTED, "new")
    assert (found[BAD].rollout.state, found[BAD].active_model_id) == (admin_pb.Rollout.ROLLED_BACK, "old")
    assert not [*found[GOOD].split, *found[BAD].split]
    for vmodel, line in ((GOOD, "  rollout of new: promoted: "), (BAD, "  rollout of broken: rolled_back: ")):
        status, output, error = await command("vmodels", "status", vmodel, *at)
        assert status == 0, error
        assert any(said.startswith(line) for said in output.splitlines()), output
    states = {(BAD, "broken", "rolled_back"): 1.0, (GOOD, "new", "promoted"): 1.0}
    await until_told(urls, "modelmesh_rollout_state", states)
    await until_told(urls, "modelmesh_rollout_share", {(GOOD, "new"): 100})
    status, output, error = await command("vmodels", "rollout", BAD, "--end", "--json", *at)
    assert (status, json.loads(output)["rollout"]) == (0, None), error
    await until_told(urls, "modelmesh_rollout_state", {(GOOD, "new", "promoted"): 1})
