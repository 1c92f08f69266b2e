"""Methods whose messages carry the id: read before routing, written on the way to the runtime."""

from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from scripted import ID, Instance, Runtime, status_of

from modelmesh.values.dataplane import MethodRule, Missed, Naming, Rules

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
    ruled.plane.set_vmodels([("v", Naming("m"))])
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


async def test_a_message_of_a_stream_cannot_name_another_model(ruled: Instance, runtime: Runtime, make: Make) -> None:
    """Neither here nor over a hop: the first message was routed, and the runtime reads every one."""
    ruled.plane.set_vmodels([("v", Naming("m"))])
    near = make("near")
    near.plane.set_rules(Rules((), (), methods=(MethodRule("test.S/Extract", extraction_path=(1, 2)),)))
    near.remote(ruled)
    seen: list[bytes] = []

    async def echo(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            seen.append(request)
            yield request

    runtime.script["Extract"] = runtime.script["VExtract"] = runtime.script["Both"] = echo
    inner = field(1, field(2, b"m")), field(1, field(2, b"x"))
    for instance, method, (ours, other) in (
        (ruled, "Extract", inner),
        (near, "Extract", inner),
        (ruled, "Both", inner),
        (ruled, "VExtract", (field(1, b"v"), field(1, b"m"))),
    ):
        seen.clear()
        call = instance.stream(method)()
        for message in (ours, b"", ours + field(7, b"x")):
            await call.write(message)
            assert (await call.read()).startswith(message)
        await call.write(ours + other)
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT, method
        assert await call.details() == "a message of the stream names another model"
        assert len(seen) == 3


async def test_compressed_messages_of_a_stream_pass_unchanged(ruled: Instance, runtime: Runtime) -> None:
    call = ruled.channel.stream_stream("/test.S/Extract")(compression=grpc.Compression.Gzip)
    for _ in range(3):
        message = field(1, field(2, b"m")) + field(7, b"x" * 100)
        await call.write(message)
        assert await call.read() == message
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize("method", ["Extract", "Inject"])
async def test_messages_of_any_size(ruled: Instance, runtime: Runtime, method: str) -> None:
    """Up to the largest; the id stands behind everything else."""
    for size in (0, 127, 128, 16_383, 70_000, (16 << 20) - 20):
        filler = b"\x3a" + varint(size) + bytes(size)
        message = filler + field(1, field(2, b"m"))
        assert await ruled.unary(method)(message, metadata=ID) == message


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


async def test_an_id_longer_than_any(ruled: Instance) -> None:
    content = b"m" * 2049
    message = b"\x0a" + varint(len(content) + 3) + b"\x12" + varint(len(content)) + content
    said = (grpc.StatusCode.INVALID_ARGUMENT, "model id has 2049 characters, 2048 are allowed")
    assert await status_of(ruled.unary("Extract")(message)) == said


def descriptor() -> Any:
    """`message Outer { Inner inner = 1; repeated bytes other = 7; }  message Inner { string id = 2; Inner inner = 1; }`"""
    file = descriptor_pb2.FileDescriptorProto(name="ids.proto", package="ids", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in (
        ("Outer", (("inner", 1, kinds.TYPE_MESSAGE, False), ("other", 7, kinds.TYPE_BYTES, True))),
        ("Inner", (("id", 2, kinds.TYPE_STRING, False), ("inner", 1, kinds.TYPE_MESSAGE, False))),
    ):
        message = file.message_type.add(name=name)
        for field_name, number, kind, repeated in fields:
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            made = message.field.add(name=field_name, number=number, type=kind, label=label)
            if kind == kinds.TYPE_MESSAGE:
                made.type_name = ".ids.Inner"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ids.Outer"))


async def test_the_runtimes_own_parser_sees_the_routed_id(ruled: Instance, runtime: Runtime) -> None:
    """Google's parser behind real sockets, with random repetitions; `make bench-micro` tries a million in the core."""
    outer = descriptor()
    seen: list[str] = []

    async def parse(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            seen.append(outer.FromString(request).inner.id)
            yield b""

    runtime.script["Extract"] = runtime.script["Inject"] = parse
    rng = Random(11)
    ids = ["a", "b", "long" * 40]
    for model in ids:
        ruled.local(model)
    routed = 0
    for _ in range(300):
        message = b""
        for _ in range(rng.randrange(4)):
            part = outer()
            if rng.random() < 0.8:
                part.inner.id = rng.choice(ids)
            if rng.random() < 0.5:
                part.inner.inner.id = "another thing's"
            if rng.random() < 0.3:
                part.other.append(bytes(rng.randrange(200)))
            message += part.SerializeToString()
        await ruled.unary("Inject")(message, metadata=(("mm-model-id", "a"),))
        assert seen[-1] == "a"
        told = outer.FromString(message).inner.id
        if told:
            await ruled.unary("Extract")(message)
            assert seen[-1] == told == runtime.metadata()["mm-model-id"]
            routed += 1
    assert routed > 100
