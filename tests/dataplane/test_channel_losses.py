"""What a call is told of a connection that ends under it: begun and lost, or not begun at all."""

import pytest
from channels import fails, target
from frames import Connection, ForgedServer
from h2.events import Event, StreamEnded

from modelmesh.adapters.channel import Channel
from modelmesh.adapters.runtime.grpc_runtime import GrpcRuntime
from modelmesh.ports import ModelSource, RuntimeCallError
from modelmesh.values.ids import ModelId
from modelmesh.values.status import Status


def dies(connection: Connection, event: Event) -> None:
    """As a process that is killed: nothing more is said."""
    if isinstance(event, StreamEnded):
        connection.transport.abort()


def answers_and_dies(connection: Connection, event: Event) -> None:
    if isinstance(event, StreamEnded):
        connection.fail(event.stream_id, 14, "I am busy")
        connection.flush()
        connection.transport.close()


async def test_a_call_under_which_the_connection_ends_is_lost() -> None:
    server = await ForgedServer(dies).start()
    channel = Channel(target(server.address))
    error = await fails(Status.UNAVAILABLE, channel.unary("/p.S/M", b"request"))
    assert (error.lost, error.unprocessed) == (True, False)
    server.close()
    error = await fails(Status.UNAVAILABLE, channel.unary("/p.S/M", b"request"), "failed to connect")
    assert (error.lost, error.unprocessed) == (False, True)
    await channel.close()


async def test_a_server_that_answers_unavailable_has_answered() -> None:
    server = await ForgedServer(answers_and_dies).start()
    channel = Channel(target(server.address))
    error = await fails(Status.UNAVAILABLE, channel.unary("/p.S/M", b"request"), "I am busy")
    assert (error.lost, error.unprocessed) == (False, False)
    server.close()
    await channel.close()


async def test_a_runtime_that_ends_while_it_loads_says_so_through_the_port() -> None:
    server = await ForgedServer(dies).start()
    runtime = GrpcRuntime(server.address)
    source = ModelSource(ModelId("m"), "t", "", "")
    for call in (runtime.load, runtime.predict_size):
        with pytest.raises(RuntimeCallError) as caught:
            await call(source)
        assert caught.value.lost
    server.close()
    await runtime.close()
