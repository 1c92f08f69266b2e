"""Payloads of real calls at real sinks."""

import base64
import re
import ssl
from pathlib import Path

import grpc
import pytest
from conftest import PREDICT, StartMesh, eventually

from modelmesh._proto import example_predictor_pb2 as predictor_pb
from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.adapters.http.metrics import self_signed_pem
from modelmesh.testing.sinks import Sink

pytestmark = pytest.mark.process


async def test_payloads_reach_their_sinks_by_filter_format_and_trust(start_mesh: StartMesh, tmp_path: Path) -> None:
    key, certificate = self_signed_pem()
    (tmp_path / "tls.pem").write_bytes(key + certificate)
    (tmp_path / "ca.pem").write_bytes(certificate)
    (tmp_path / "secret").write_text("Bearer abc\n")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "tls.pem")
    async with Sink() as all_calls, Sink(tls=tls) as one_vmodel, Sink() as one_model:
        mesh = await start_mesh(
            environment={
                "MM_PAYLOAD_PROCESSORS": f"{all_calls.url}/consumer/kserve/v2#predict "
                f"{one_vmodel.url}/v?vmodel=v&format=cloudevents {one_model.url}/m?n#{PREDICT} logger://*",
                "MM_PAYLOAD_TRUST_CERT_PATH": str(tmp_path / "ca.pem"),
                "MM_PAYLOAD_AUTHORIZATION_PATH": str(tmp_path / "secret"),
            }
        )
        await mesh.register("m", load=True, sync=True)
        await mesh.register("n", load=True, sync=True)
        answer = await mesh.predict("m", "hello", metadata=[("authorization", "secret"), ("x-user", "u")])
        await mesh.predict("n")
        vmodel = pb.SetVModelRequest(vModelId="v", targetModelId="m")
        await mesh.call("mmesh.ModelMesh/setVModel", vmodel, pb.VModelStatusInfo)
        await mesh.predict("", metadata=[("mm-vmodel-id", "v")])
        with pytest.raises(grpc.aio.AioRpcError):
            await mesh.predict("missing")

        async def all_there() -> bool:
            return (len(all_calls.posted), len(one_vmodel.posted), len(one_model.posted)) == (8, 2, 2)

        await eventually(all_there)
        assert len(re.findall(r"\] payload ", mesh.log())) == 8

    first = [posted.json for posted in all_calls.posted if posted.json["modelid"] == "m"]
    request = next(one for one in first if one["kind"] == "request" and one["vModelId"] is None)
    response = next(one for one in first if one["kind"] == "response" and one["id"] == request["id"])
    sent = predictor_pb.PredictRequest.FromString(base64.b64decode(request["data"]))
    assert sent.text == "hello"
    assert predictor_pb.PredictResponse.FromString(base64.b64decode(response["data"])) == answer
    assert (request["status"], response["status"]) == ("", "OK")
    assert request["metadata"]["x-user"] == "u"
    assert request["metadata"]["mm-model-id"] == "m"
    assert "authorization" not in request["metadata"], "secrets stay here"
    assert all_calls.posted[0].path == "/consumer/kserve/v2"
    assert all_calls.posted[0].headers["authorization"] == "Bearer abc"
    assert {one["vModelId"] for one in first} == {None, "v"}

    missing = [posted.json for posted in all_calls.posted if posted.json["modelid"] == "missing"]
    assert [(one["kind"], one["status"], one["metadata"]) for one in missing if one["kind"] == "response"] == [
        ("response", "NOT_FOUND", {})
    ]
    assert {posted.json["modelid"] for posted in one_vmodel.posted} == {"m"}
    assert {posted.json["vmodelid"] for posted in one_vmodel.posted} == {"v"}
    assert {posted.json["modelid"] for posted in one_model.posted} == {"n"}


async def test_a_sink_that_is_down_changes_nothing_for_callers(start_mesh: StartMesh) -> None:
    async with Sink() as gone:
        pass
    mesh = await start_mesh(environment={"MM_PAYLOAD_PROCESSORS": f"{gone.url}/consumer/kserve/v2"})
    await mesh.register("m", load=True, sync=True)
    assert (await mesh.predict("m")).results
    assert await mesh.state("m") == "LOADED"
    await mesh.unregister("m")

    async def told() -> bool:
        return "payloads_lost" in mesh.log()

    await eventually(told)


async def test_what_was_tapped_is_sent_before_the_process_ends(start_mesh: StartMesh) -> None:
    async with Sink() as sink:
        mesh = await start_mesh(environment={"MM_PAYLOAD_PROCESSORS": f"{sink.url}/"})
        await mesh.register("m", load=True, sync=True)
        for _ in range(20):
            await mesh.predict("m")
        await mesh.close()
        await mesh.cluster.stop()
        assert len(sink.posted) == 40
