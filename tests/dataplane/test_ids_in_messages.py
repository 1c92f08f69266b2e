"""Methods whose messages carry the id: read before routing, written on the way to the runtime."""

from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from scripted import ID, Instance, Runtime, status_of

from modelmesh.values.dataplane import MethodRule, Missed, Rules

Make = Callable[..., Instance]


def field(number: int, content: bytes) -> bytes:
    assert number < 16
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


@pytest.fixture
async def ruled(one: Instance) -> Instance:
    """`Extract` reads 1.2, `VExtract` reads a vmodel from 1, `Inject` writes 1.2, `Both` does both."""
    one.plane.set_rules(
        Rules(
            (),
            (),
            methods=(
                MethodRule("test.S/Extract", extraction_path=(1, 2)),
                MethodRule("test.S/VExtract", extraction_path=(1,), extracts_vmodel=True),
                MethodRule("test.S/Inject", injection_path=(1, 2)),
                MethodRule("test.S/Both", extraction_path=(1, 2), injection_path=(3,)),
            ),
        )
    )
    one.local("m")
    return one


async def test_the_id_in_the_message_counts_before_headers(ruled: Instance, runtime: Runtime) -> None:
    message = field(1, field(2, b"m")) + field(7, b"x")
    assert await ruled.unary("Extract")(message, metadata=(("mm-model-id", "other"),)) == message
    assert runtime.metadata()["mm-model-id"] == "m"
    assert await ruled.unary("Extract")(field(7, b"x"), metadata=ID) == field(7, b"x")


async def test_the_last_occurrence_counts(ruled: Instance, runtime: Runtime) -> None:
    await ruled.unary("Extract")(field(1, field(2, b"first")) + field(1, field(2, b"?") + field(2, b"m")))
    assert runtime.metadata()["mm-model-id"] == "m"


async def test_a_vmodel_in_the_message(ruled: Instance, runtime: Runtime) -> None:
    ruled.plane.set_vmodels([("v", "m")])
    await ruled.unary("VExtract")(field(1, b"v"))
    assert runtime.metadata()["mm-model-id"] == "m"


async def test_compressed_messages_are_read(ruled: Instance, runtime: Runtime) -> None:
    message = field(1, field(2, b"m")) + field(7, b"x" * 100)
    call = ruled.channel.unary_unary("/test.S/Extract")
    assert await call(message, compression=grpc.Compression.Gzip) == message
    call = ruled.channel.unary_unary("/test.S/Inject")
    assert await call(message, metadata=ID, compression=grpc.Compression.Gzip) == message


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"\x08\x01", "proto message id field is not a string (type = 0)"),
        (b"\x0a\x7f", "proto parsing error"),
        (b"\x0b", "unsupported protobuf field type:3"),
        (field(1, field(2, b"")), "provided model-id header must be non-empty"),
        (field(1, field(2, b"\xff")), "model id is not valid UTF-8"),
    ],
)
async def test_malformed_messages_never_reach_the_runtime(
    ruled: Instance, runtime: Runtime, message: bytes, error: str
) -> None:
    assert await status_of(ruled.unary("Extract")(message)) == (grpc.StatusCode.INVALID_ARGUMENT, error)
    assert runtime.calls == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", field(1, field(2, b"m"))),
        (field(1, field(2, b"long" * 20)) + field(7, b"x"), field(1, field(2, b"m")) + field(7, b"x")),
        # Another model's id cannot be smuggled past us in a repeated field.
        (
            field(1, field(2, b"a")) + field(1, field(2, b"b") + field(2, b"c")),
            field(1, b"") + field(1, field(2, b"m")),
        ),
    ],
)
async def test_the_id_is_written_into_the_message(ruled: Instance, before: bytes, after: bytes) -> None:
    assert await ruled.unary("Inject")(before, metadata=ID) == after


async def test_every_message_of_a_stream_gets_the_id(ruled: Instance) -> None:
    call = ruled.stream("Both")(metadata=())
    for n in range(3):
        await call.write(field(1, field(2, b"m")) + field(5, bytes([n])))
        assert await call.read() == field(1, field(2, b"m")) + field(5, bytes([n])) + field(3, b"m")
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK


async def test_a_miss_by_the_id_in_the_message(ruled: Instance) -> None:
    call = ruled.unary("Extract")(field(1, field(2, b"cold")))
    assert (await ruled.brain.next(Missed)).model == "cold"
    call.cancel()


async def test_no_message_at_all(ruled: Instance, runtime: Runtime) -> None:
    call = ruled.stream("Extract")()
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.INTERNAL
    assert await call.details() == "Half-closed without a request"


async def test_over_a_hop_the_message_is_not_read_again(make: Make, runtime: Runtime) -> None:
    near, far = make("near"), make("far")
    rules = Rules((), (), methods=(MethodRule("test.S/Both", extraction_path=(1,), injection_path=(2,)),))
    for instance in (near, far):
        instance.plane.set_rules(rules)
    far.local("m")
    near.remote(far)

    async def again(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    runtime.script["Both"] = again
    assert await near.unary("Both")(field(1, b"m")) == field(1, b"m") + field(2, b"m")
