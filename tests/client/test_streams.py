"""Models that answer more than once, by both clients: each answer as it comes, and how they end."""

from typing import Any

import grpc
import numpy as np
import pytest
from scripted_server import ScriptedServer, come_back, failure

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.client import DeadlineExceededError, ModelMeshError, UnavailableError
from modelmesh.client.calls import infer_request
from modelmesh.values.status import Status

METHOD = "ModelStreamInfer"


def word(text: str) -> pb.ModelStreamInferResponse:
    answer = pb.ModelInferResponse(
        model_name="m", raw_output_contents=[len(text).to_bytes(4, "little") + text.encode()]
    )
    answer.outputs.add(name="text", datatype="BYTES", shape=[1])
    return pb.ModelStreamInferResponse(infer_response=answer)


def words(answers: Any) -> list[bytes]:
    return [bytes(one["text"][0]) for one in answers]


def test_answers_are_given_as_they_come(server: ScriptedServer, client: Any) -> None:
    server.streams[METHOD] = [[word("to"), word("be")], []]
    answers = client.stream("m", {"x": np.ones(3, np.float32)}, vmodel=True, outputs=["text"], priority="high")
    assert server.requests[METHOD] == [], "the call begins with the first answer that is asked for"
    assert words(answers) == [b"to", b"be"]
    expected = infer_request("m", {"x": np.ones(3, np.float32)}, outputs=["text"])
    assert pb.ModelInferRequest.FromString(server.requests[METHOD][0]) == expected
    assert (server.headers[0]["mm-vmodel-id-bin"], server.headers[0]["mm-priority"]) == (b"m", "high")
    assert words(client.stream("m", {"x": [1]})) == []


def test_what_goes_wrong_comes_after_the_answers_before_it(server: ScriptedServer, client: Any) -> None:
    for end, status, said in [
        (pb.ModelStreamInferResponse(error_message="too long"), Status.UNKNOWN, "too long"),
        (failure(grpc.StatusCode.INTERNAL, "broken"), Status.INTERNAL, "broken"),
        (
            pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(raw_output_contents=[b"1"])),
            Status.INTERNAL,
            "read",
        ),
    ]:
        server.streams[METHOD] = [[word("to"), end]]
        answers = iter(client.stream("m", {"x": [1]}))
        assert words([next(answers)]) == [b"to"]
        with pytest.raises(ModelMeshError, match=said) as raised:
            next(answers)
        assert raised.value.status is status
    with pytest.raises(ValueError, match="input 'x'"):
        client.stream("m", {"x": [object()]})


def test_a_call_is_repeated_before_its_first_answer_only(server: ScriptedServer, client: Any) -> None:
    busy = failure(grpc.StatusCode.UNAVAILABLE, "busy", come_back(10))
    server.streams[METHOD] = [[busy], [word("to"), busy]]
    answers = iter(client.stream("m", {"x": [1]}))
    assert words([next(answers)]) == [b"to"]
    with pytest.raises(UnavailableError, match="busy"):
        next(answers)
    assert len(server.requests[METHOD]) == 2


def test_who_stops_reading_ends_the_call(server: ScriptedServer, client: Any) -> None:
    server.streams[METHOD] = [(word("again") for _ in range(10**9))]
    answers = iter(client.stream("m", {"x": [1]}))
    assert words([next(answers)]) == [b"again"]
    answers.close()
    assert server.ended.wait(20)


def test_a_deadline_is_for_all_answers(server: ScriptedServer, client: Any) -> None:
    def late(_: bytes, context: grpc.ServicerContext) -> Any:
        server.ended.wait(20)

    server.streams[METHOD] = [[word("to"), late]]
    answers = iter(client.stream("m", {"x": [1]}, timeout_s=1))
    assert words([next(answers)]) == [b"to"]
    with pytest.raises(DeadlineExceededError):
        next(answers)
