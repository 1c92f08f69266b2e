"""Both clients against a scripted server: what is sent, what comes back, and what goes wrong."""

import asyncio
import base64
import inspect
import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from scripted_server import ScriptedServer, come_back, echo, failure

from modelmesh import client as public
from modelmesh._proto import model_mesh_pb2 as mesh
from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidArgumentError,
    ModelCopy,
    ModelMeshError,
    ModelState,
    ModelStatus,
    NotFoundError,
    PermissionDeniedError,
    Tls,
    UnavailableError,
)
from modelmesh.control.requests.answers import retry_later
from modelmesh.testing.certificates import Authority
from modelmesh.values.status import Status

NUMBERS = [
    np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
    np.float16, np.float32, np.float64,
]  # fmt: skip


# --- tensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3), (6,), (), (0, 4)], ids=str)
def test_arrays_come_back_as_they_were_sent(server, client, shape):
    server.answers["ModelInfer"] = [echo]
    count = math.prod(shape)
    sent = {kind.__name__: np.arange(count).astype(kind).reshape(shape) for kind in NUMBERS}
    found = client.infer("m", sent)
    assert list(found) == list(sent)
    for name, array in sent.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, shape)
        np.testing.assert_array_equal(found[name], array)


def test_any_layout_of_memory_is_sent_in_rows(server, client):
    server.answers["ModelInfer"] = [echo]
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    np.testing.assert_array_equal(client.infer("m", {"x": array})["x"], array)


def test_text_and_lists_are_arrays_too(server, client):
    server.answers["ModelInfer"] = [echo]
    found = client.infer("m", {"text": ["né", "b"], "bytes": [b"\xff", b""], "numbers": [[1, 2]]})
    assert found["text"].tolist() == ["né".encode(), b"b"]
    assert found["bytes"].tolist() == [b"\xff", b""]
    assert (found["numbers"].dtype, found["numbers"].shape) == (np.int64, (1, 2))


def test_bfloat16_is_said_by_name_and_comes_back_as_float32(server, client):
    server.answers["ModelInfer"] = [echo]
    found = client.infer("m", {"x": np.array([1.0, 0.1], np.float32), "y": [1.0]}, bfloat16=["x"])
    request = pb.ModelInferRequest.FromString(server.requests["ModelInfer"][0])
    assert [one.datatype for one in request.inputs] == ["BF16", "FP64"]
    assert found["x"].dtype == np.float32
    assert found["x"].tolist() == [1.0, 0.10009765625]


def test_typed_contents_are_read_too(server, client):
    answer = pb.ModelInferResponse()
    answer.outputs.add(name="y", datatype="INT8", shape=[2]).contents.int_contents.extend([-1, 2])
    server.answers["ModelInfer"] = [answer]
    found = client.infer("m", {"x": [1]})["y"]
    assert (found.dtype, found.tolist()) == (np.int8, [-1, 2])


def test_answers_above_the_bound_of_grpc(server, client):
    server.answers["ModelInfer"] = [echo]
    array = np.arange(700_000, dtype=np.float64)  # 5.6 MB
    answer = pb.ModelInferResponse(raw_output_contents=[array.tobytes()])
    answer.outputs.add(name="y", datatype="FP64", shape=array.shape)
    server.answers["ModelInfer"] = [answer]
    np.testing.assert_array_equal(client.infer("m", {"x": [1]})["y"], array)


@pytest.mark.parametrize(
    ("inputs", "options", "reason"),
    [
        ({"x": np.array([1j])}, {}, "input 'x': the Open Inference Protocol has no datatype for complex128"),
        ({"x": np.array([1, "a"], object)}, {}, "input 'x': objects of the kinds int, str are no tensor"),
        ({"x": np.array([2**70], object)}, {}, "input 'x'"),
        ({"x": [[1], [1, 2]]}, {}, "input 'x'"),
        ({"x": [1]}, {"bfloat16": ["x"]}, "input 'x': INT64 is not sent as BF16"),
        ({"x": [1.0]}, {"bfloat16": ["y"]}, "bfloat16 names 'y', which is no input"),
        ({"x": [1.0]}, {"timeout_s": 0}, "timeout_s is 0"),
        ({"x": [1.0]}, {"timeout_s": math.nan}, "timeout_s is nan"),
    ],
)
def test_what_is_no_call_is_refused_before_it_is_sent(server, client, inputs, options, reason):
    with pytest.raises(ValueError, match=reason):
        client.infer("m", inputs, **options)
    assert not server.requests


def contradictions():
    answer = pb.ModelInferResponse(raw_output_contents=[b"1234"])
    yield answer, "it has 0 outputs and 1 raw contents"
    answer = pb.ModelInferResponse(raw_output_contents=[b"1234"])
    answer.outputs.add(name="y", datatype="FP32", shape=[2])
    yield answer, "tensor 'y': FP32 of shape [2] takes 8 bytes, not 4"
    answer = pb.ModelInferResponse(raw_output_contents=[b"1234"] * 2)
    for _ in range(2):
        answer.outputs.add(name="y", datatype="FP32", shape=[1])
    yield answer, "output 'y' comes twice"


@pytest.mark.parametrize(("answer", "reason"), list(contradictions()))
def test_an_answer_that_contradicts_itself_is_an_error(server, client, answer, reason):
    server.answers["ModelInfer"] = [answer]
    with pytest.raises(ModelMeshError) as caught:
        client.infer("m", {"x": [1]})
    assert caught.value.status is Status.INTERNAL
    assert f"the answer cannot be read: {reason}" in str(caught.value)


def test_numpy_is_needed_by_inference_alone(server, client, monkeypatch):
    code = "import sys, modelmesh.client; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "numpy", None)
    server.answers["getModelStatus"] = [mesh.ModelStatusInfo()]
    assert client.status("m").state is ModelState.NOT_FOUND
    with pytest.raises(ModuleNotFoundError, match=r"infer needs numpy: pip install pymodelmesh\[client\]"):
        client.infer("m", {"x": [1]})


# --- what is sent -----------------------------------------------------------------------------


def test_the_model_is_named_by_the_message_and_a_vmodel_by_a_header(server, connect):
    server.answers["ModelInfer"] = [echo]
    client = connect(server.address, headers={"authorization": "Bearer x"})
    client.infer("m", {"x": [1]}, outputs=["label"])
    client.infer("vé", {"x": [1]}, vmodel=True)
    plain, vmodel = (pb.ModelInferRequest.FromString(one) for one in server.requests["ModelInfer"])
    assert (plain.model_name, [one.name for one in plain.outputs]) == ("m", ["label"])
    assert len(vmodel.outputs) == 0
    assert not [name for name in server.headers[0] if name.startswith("mm-")], "other servers get no header of ours"
    assert server.headers[1]["mm-vmodel-id-bin"] == "vé".encode()
    assert all(headers["authorization"] == "Bearer x" for headers in server.headers)


def test_a_call_says_its_class_and_only_one_that_there_is(server, client):
    server.answers["ModelInfer"] = [echo]
    client.infer("m", {"x": [1]}, priority="low")
    assert server.headers[0]["mm-priority"] == "low"
    with pytest.raises(ValueError, match="'urgent' is no class of calls; it must be high, normal or low"):
        client.infer("m", {"x": [1]}, priority="urgent")


def test_threads_share_a_client(server):
    server.answers["ModelInfer"] = [echo]
    with Client(server.address) as client, ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda number: client.infer("m", {"x": [number]})["x"].tolist(), range(100))
        assert list(found) == [[number] for number in range(100)]


# --- errors, deadlines, repetitions -----------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, NotFoundError),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgumentError),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDeniedError),
        (grpc.StatusCode.UNAUTHENTICATED, PermissionDeniedError),
        (grpc.StatusCode.UNAVAILABLE, UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ModelMeshError),
    ],
)
def test_errors_have_a_status_and_the_words_of_the_server(server, client, code, kind):
    server.answers["ModelInfer"] = [failure(code, "so it is")]
    with pytest.raises(ModelMeshError) as caught:
        client.infer("m", {"x": [1]})
    assert type(caught.value) is kind
    assert (caught.value.status.name, caught.value.message) == (code.name, "so it is")
    assert str(caught.value) == f"so it is ({code.name})"
    assert len(server.requests["ModelInfer"]) == 1, "nobody said that it is worth repeating"


def test_nobody_at_the_address(connect):
    server = ScriptedServer()
    server.stop()
    with pytest.raises(UnavailableError):
        connect(server.address).status("m")


def test_a_call_is_repeated_when_the_server_says(server, client):
    busy = failure(grpc.StatusCode.UNAVAILABLE, "busy", come_back(150))
    server.answers["ModelInfer"] = [busy, busy, echo]
    assert client.infer("m", {"x": [7]}, timeout_s=5)["x"].tolist() == [7]
    first, _, third = server.seconds_left
    assert third <= first - 0.2, "repetitions share the time of the call, which gRPC tells in tenths"


@pytest.mark.parametrize(
    "details",
    [None, come_back(60_000), b"\xff\xff", b"", come_back(0).replace(b"google", b"gaagle")],
    ids=["no hint", "later than the deadline", "broken", "empty", "of another kind"],
)
def test_a_call_is_not_repeated_else(server, client, details):
    server.answers["ModelInfer"] = [failure(grpc.StatusCode.UNAVAILABLE, "busy", details), echo]
    with pytest.raises(UnavailableError):
        client.infer("m", {"x": [7]}, timeout_s=5)
    assert len(server.requests["ModelInfer"]) == 1


def test_a_hint_of_the_mesh_is_read(server, client):
    trailers = dict(retry_later(Status.UNAVAILABLE, "busy", 60_000).trailers)
    text = trailers["grpc-status-details-bin"]
    server.answers["ModelInfer"] = [
        failure(grpc.StatusCode.UNAVAILABLE, "busy", base64.b64decode(text + b"=" * (-len(text) % 4)))
    ]
    with pytest.raises(UnavailableError) as caught:
        client.infer("m", {"x": [1]}, timeout_s=5)
    assert caught.value.retry_after_s == 60


def test_a_deadline_ends_a_call_and_goes_with_it(server, client):
    leave = threading.Event()

    def wait(*_):
        leave.wait(20)
        return pb.ModelInferResponse()

    server.answers["ModelInfer"] = [wait]
    try:
        with pytest.raises(DeadlineExceededError):
            client.infer("m", {"x": [1]}, timeout_s=0.2)
    finally:
        leave.set()
    assert server.seconds_left[0] <= 0.3, "it is rounded up on its way"


def test_a_deadline_ends_repetitions(server, client):
    server.answers["ModelInfer"] = [failure(grpc.StatusCode.UNAVAILABLE, "busy", come_back(0))]
    with pytest.raises((UnavailableError, DeadlineExceededError)):
        client.infer("m", {"x": [1]}, timeout_s=0.3)
    assert 2 < len(server.requests["ModelInfer"]) <= 31, "a pause of 10 ms at least"


# --- the mesh ---------------------------------------------------------------------------------

LOADED = mesh.ModelStatusInfo(
    status=mesh.ModelStatusInfo.LOADED,
    errors=["no such file"],
    modelCopyInfos=[
        mesh.ModelStatusInfo.ModelCopyInfo(location="a", copyStatus=mesh.ModelStatusInfo.LOADED, time=1_700_000_000_000)
    ],
)
STATUS = ModelStatus("m", ModelState.LOADED, ("no such file",), (ModelCopy("a", ModelState.LOADED, 1_700_000_000_000),))


def test_the_status_of_a_model_is_a_value(server, client):
    server.answers["getModelStatus"] = [LOADED, mesh.ModelStatusInfo.FromString(b"\x08\x63")]
    assert client.status("m") == STATUS
    assert client.status("m").state is ModelState.UNKNOWN, "a state of a later version"
    assert mesh.GetStatusRequest.FromString(server.requests["getModelStatus"][0]).modelId == "m"


def test_models_are_registered_loaded_and_forgotten(server, client):
    server.answers |= {"registerModel": [LOADED], "ensureLoaded": [LOADED]}
    server.answers["unregisterModel"] = [mesh.UnregisterModelResponse()]
    assert client.register("m", kind="onnx", path="m.onnx", key="{}", load=True, wait=True) == STATUS
    assert client.ensure_loaded("m") == STATUS
    client.ensure_loaded("m", wait=False)
    client.unregister("m")
    info = mesh.ModelInfo(type="onnx", path="m.onnx", key="{}")
    (registered,) = server.requests["registerModel"]
    assert mesh.RegisterModelRequest.FromString(registered) == mesh.RegisterModelRequest(
        modelId="m", modelInfo=info, loadNow=True, sync=True
    )
    loads = [mesh.EnsureLoadedRequest.FromString(one).sync for one in server.requests["ensureLoaded"]]
    assert loads == [True, False]
    assert mesh.UnregisterModelRequest.FromString(server.requests["unregisterModel"][0]).modelId == "m"


def test_it_waits_until_a_model_is_ready(server, client):
    away, no, yes = failure(grpc.StatusCode.UNAVAILABLE), pb.ModelReadyResponse(), pb.ModelReadyResponse(ready=True)
    server.answers["ModelReady"] = [away, no, yes]
    client.wait_ready("m", 20, vmodel=True)
    assert len(server.requests["ModelReady"]) == 3
    assert server.headers[0]["mm-vmodel-id-bin"] == b"m"


def test_it_does_not_wait_for_ever_nor_for_what_is_not_there(server, client):
    server.answers["ModelReady"] = [pb.ModelReadyResponse()]
    with pytest.raises(DeadlineExceededError, match=r"m was not ready after 0\.2 s"):
        client.wait_ready("m", 0.2)
    server.answers["ModelReady"] = [failure(grpc.StatusCode.NOT_FOUND)]
    with pytest.raises(NotFoundError):
        client.wait_ready("m", 20)


# --- connections ------------------------------------------------------------------------------


def test_tls_with_a_certificate_of_the_client(connect, tmp_path):
    authority = Authority()
    served, shown = authority.issue("localhost"), authority.issue()
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.pem)
    certificate, key = shown.write(tmp_path)
    pair = ((served.key, served.certificate),)
    credentials = grpc.ssl_server_credentials(pair, root_certificates=authority.pem, require_client_auth=True)
    server = ScriptedServer(credentials)
    try:
        server.answers["getModelStatus"] = [LOADED]
        client = connect(server.address, tls=Tls(ca, certificate, key), timeout_s=20)
        assert client.status("m") == STATUS
        with pytest.raises(UnavailableError):
            connect(server.address, tls=Tls(ca), timeout_s=20).status("m")
    finally:
        server.stop()
    with pytest.raises(ValueError, match="a certificate and its key come together"):
        connect(server.address, tls=Tls(ca, certificate))
    with pytest.raises(FileNotFoundError):
        connect(server.address, tls=Tls(tmp_path / "nothing"))


def test_both_clients_have_the_same_methods():
    def methods(kind):
        found = inspect.getmembers(kind, inspect.isfunction)
        signatures = {name: str(inspect.signature(one)) for name, one in found if not name.startswith("_")}
        return {name: signature.replace("AsyncIterator", "Iterator") for name, signature in signatures.items()}

    assert methods(Client) == methods(AsyncClient)
    assert inspect.signature(Client) == inspect.signature(AsyncClient)
    assert set(public.__all__) <= set(dir(public))


async def test_a_call_that_is_cancelled_ends_at_the_server(server):
    begun, ended, leave = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def wait(_, context):
        context.add_callback(ended.set)
        loop.call_soon_threadsafe(begun.set)
        leave.wait(20)
        return pb.ModelInferResponse()

    server.answers["ModelInfer"] = [wait]
    try:
        async with AsyncClient(server.address, timeout_s=20) as client:
            call = asyncio.create_task(client.infer("m", {"x": [1]}))
            async with asyncio.timeout(10):
                await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await asyncio.to_thread(ended.wait, 10)
    finally:
        leave.set()
