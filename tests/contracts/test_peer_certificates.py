"""`GrpcPeers` against real servers: certificates that change, and connections that are let go of when nobody uses them."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from modelmesh._proto import peer_pb2 as pb
from modelmesh.adapters.peers import GrpcPeers, PeerCertificates
from modelmesh.adapters.peers import grpc_peers as adapter
from modelmesh.ports import PeerState, PeerUnreachableError
from modelmesh.testing.certificates import Authority
from modelmesh.values.dataplane import PeerAddress
from modelmesh.values.ids import ModelId


class Far:
    """An instance that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.port = 0

    async def ensure_loaded(self, request: pb.EnsureLoadedRequest, _: object) -> pb.EnsureLoadedResponse:
        self.asked.set()
        await self.answer.wait()
        return pb.EnsureLoadedResponse(state=pb.EnsureLoadedResponse.LOADED)

    async def ping(self, request: pb.PingRequest, _: object) -> pb.PingResponse:
        return pb.PingResponse(instance_id="far")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def certificates(authority: Authority) -> PeerCertificates:
    issued = authority.issue("mesh")
    return PeerCertificates(authority.pem, issued.key, issued.certificate)


@pytest.fixture
async def far(authority: Authority) -> AsyncIterator[Far]:
    made = Far()
    server = grpc.aio.server()
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            handler, request_deserializer=kind.FromString, response_serializer=lambda answer: answer.SerializeToString()
        )
        for name, handler, kind in (
            ("EnsureLoaded", made.ensure_loaded, pb.EnsureLoadedRequest),
            ("Ping", made.ping, pb.PingRequest),
        )
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("modelmesh.v1.Peer", handlers),))
    issued = authority.issue("mesh")
    made.port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials([(issued.key, issued.certificate)], authority.pem, require_client_auth=True),
    )
    await server.start()
    yield made
    await server.stop(None)


async def test_a_call_outlives_the_certificates_it_began_with(far: Far, authority: Authority) -> None:
    peers = GrpcPeers(certificates(authority))
    address = PeerAddress(f"127.0.0.1:{far.port}", "mesh")
    call = asyncio.ensure_future(
        peers.ensure_loaded(address, ModelId("m"), last_use_ms=0, sync=True, retry=False, view=None, timeout_ms=20_000)
    )
    await far.asked.wait()
    peers.set_certificates(certificates(Authority("strange")))
    with pytest.raises(PeerUnreachableError):
        await peers.ping(address, timeout_ms=20_000)
    peers.set_certificates(certificates(authority))
    assert await peers.ping(address, timeout_ms=20_000) == "far"
    assert not call.done()
    far.answer.set()
    assert (await call).state is PeerState.LOADED
    assert not peers._retired
    await peers.close()


async def test_a_connection_beyond_the_bound_is_closed_when_its_calls_have_ended(
    far: Far, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "CHANNELS", 1)
    peers = GrpcPeers(certificates(authority))
    call = asyncio.ensure_future(
        peers.ensure_loaded(
            PeerAddress(f"127.0.0.1:{far.port}", "mesh"),
            ModelId("m"),
            last_use_ms=0,
            sync=True,
            retry=False,
            view=None,
            timeout_ms=20_000,
        )
    )
    await far.asked.wait()
    assert await peers.ping(PeerAddress(f"localhost:{far.port}", "mesh"), timeout_ms=20_000) == "far"
    far.answer.set()
    assert (await call).state is PeerState.LOADED
    assert not peers._retired
    assert len(peers._connections) == 1
    await peers.close()
