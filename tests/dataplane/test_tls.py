"""TLS of clients, mutual TLS between instances, certificates swapped while connections are open."""

from collections.abc import Callable

import grpc
import pytest
from scripted import ID, WAIT, Instance, status_of

from modelmesh.adapters.dataplane import ListenerTls
from modelmesh.testing.certificates import Authority, self_signed
from modelmesh.values.dataplane import AttemptFailed, LinkLost, Outcome, PeerAddress

Make = Callable[..., Instance]


def listener(authority: Authority, *names: str, client_auth: str = "none") -> ListenerTls:
    issued = authority.issue(*names)
    return ListenerTls(issued.certificate, issued.key, authority.pem, client_auth)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def channel(one: Instance, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(f"localhost:{one.plane.serving_port}", credentials, options)


async def test_a_client_over_tls(make: Make, authority: Authority) -> None:
    one = make(serving_tls=listener(authority, "localhost"))
    one.local()
    async with channel(one, grpc.ssl_channel_credentials(authority.pem)) as secure:
        assert await secure.unary_unary("/test.S/Echo")(b"x" * 100_000, metadata=ID, timeout=WAIT) == b"x" * 100_000
    assert (await status_of(one.unary()(b"x", metadata=ID, timeout=0.5)))[0] in {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }


async def test_clients_must_show_a_certificate(make: Make, authority: Authority) -> None:
    one = make(serving_tls=listener(authority, "localhost", client_auth="require"))
    one.local()
    known_client = authority.issue("client")
    async with channel(
        one, grpc.ssl_channel_credentials(authority.pem, known_client.key, known_client.certificate)
    ) as known:
        assert await known.unary_unary("/test.S/Echo")(b"x", metadata=ID, timeout=WAIT) == b"x"
    stranger = Authority().issue("client")
    for credentials in (
        grpc.ssl_channel_credentials(authority.pem),
        grpc.ssl_channel_credentials(authority.pem, stranger.key, stranger.certificate),
    ):
        async with channel(one, credentials) as unknown:
            code, _ = await status_of(unknown.unary_unary("/test.S/Echo")(b"x", metadata=ID))
            assert code == grpc.StatusCode.UNAVAILABLE


async def test_certificates_are_swapped_while_connections_are_open(make: Make, authority: Authority) -> None:
    one = make(serving_tls=listener(authority, "localhost"))
    one.local()
    async with channel(one, grpc.ssl_channel_credentials(authority.pem)) as before:
        echo = before.unary_unary("/test.S/Echo")
        assert await echo(b"1", metadata=ID, timeout=WAIT) == b"1"
        other = Authority()
        one.plane.set_tls(listener(other, "localhost"), None)
        assert await echo(b"2", metadata=ID, timeout=WAIT) == b"2"
    async with channel(one, grpc.ssl_channel_credentials(other.pem)) as after:
        assert await after.unary_unary("/test.S/Echo")(b"3", metadata=ID, timeout=WAIT) == b"3"


async def test_instances_speak_mutual_tls(make: Make, authority: Authority) -> None:
    near = make("near", peer_tls=listener(authority, "mesh", client_auth="require"))
    far = make("far", peer_tls=listener(authority, "mesh", client_auth="require"))
    far.local()
    near.remote(far)
    near.plane.set_peers([("far", PeerAddress(far.peer_address.address, "mesh"))])
    assert await near.unary()(b"x", metadata=ID, timeout=WAIT) == b"x"


async def test_an_instance_with_another_name_is_not_spoken_to(make: Make, authority: Authority) -> None:
    near = make("near", peer_tls=listener(authority, "mesh", client_auth="require"))
    far = make("far", peer_tls=listener(authority, "imposter", client_auth="require"))
    far.local()
    near.remote(far)
    near.plane.set_peers([("far", PeerAddress(far.peer_address.address, "mesh"))])
    call = near.unary()(b"x", metadata=ID)
    assert await near.brain.next(LinkLost) == LinkLost("far")
    failed = await near.brain.next(AttemptFailed)
    assert failed.outcome == Outcome.LOST
    call.cancel()


@pytest.mark.parametrize("marked", [True, False])
async def test_one_self_signed_certificate_will_do_for_all_instances(make: Make, marked: bool) -> None:
    shared = self_signed("mesh", authority=marked)
    tls = ListenerTls(shared.certificate, shared.key, shared.certificate, "require")
    near, far = make("near", peer_tls=tls), make("far", peer_tls=tls)
    far.local()
    near.remote(far)
    near.plane.set_peers([("far", PeerAddress(far.peer_address.address, "mesh"))])
    assert await near.unary()(b"x", metadata=ID, timeout=WAIT) == b"x"


@pytest.mark.parametrize(
    ("name", "near_names", "far_names"), [("other", "own", "own"), ("mesh", "none", "own"), ("mesh", "own", "none")]
)
async def test_a_certificate_that_is_named_is_trusted_for_its_name_and_by_who_names_it(
    make: Make, name: str, near_names: str, far_names: str
) -> None:
    shared, another = self_signed("mesh", authority=True), self_signed("mesh", authority=True)
    trusted = {"own": shared.certificate, "none": another.certificate}
    near = make("near", peer_tls=ListenerTls(shared.certificate, shared.key, trusted[near_names], "require"))
    far = make("far", peer_tls=ListenerTls(shared.certificate, shared.key, trusted[far_names], "require"))
    far.local()
    near.remote(far)
    near.plane.set_peers([("far", PeerAddress(far.peer_address.address, name))])
    call = near.unary()(b"x", metadata=ID)
    failed = await near.brain.next(AttemptFailed)
    assert failed.outcome == Outcome.LOST
    call.cancel()


async def test_a_client_certificate_that_is_named_is_accepted(make: Make, authority: Authority) -> None:
    client, stranger = self_signed("client", authority=True), self_signed("client", authority=True)
    issued = authority.issue("localhost")
    one = make(serving_tls=ListenerTls(issued.certificate, issued.key, client.certificate, "require"))
    one.local()
    async with channel(one, grpc.ssl_channel_credentials(authority.pem, client.key, client.certificate)) as known:
        assert await known.unary_unary("/test.S/Echo")(b"x", metadata=ID, timeout=WAIT) == b"x"
    async with channel(one, grpc.ssl_channel_credentials(authority.pem, stranger.key, stranger.certificate)) as unknown:
        code, _ = await status_of(unknown.unary_unary("/test.S/Echo")(b"x", metadata=ID))
        assert code == grpc.StatusCode.UNAVAILABLE


def test_material_that_does_not_fit_is_refused(authority: Authority) -> None:
    from modelmesh._core import _native

    issued, other = authority.issue("a"), authority.issue("b").key
    chain, key = issued.certificate, issued.key
    for arguments, message in (
        ({"certificate_chain": chain, "private_key": other}, "do not fit"),
        ({"certificate_chain": b"", "private_key": key}, "no certificate"),
        ({"certificate_chain": chain, "private_key": b"?"}, "private key"),
        ({"certificate_chain": chain, "private_key": key, "trusted": b""}, "hold no certificate"),
        ({"certificate_chain": chain, "private_key": key, "client_auth": "maybe"}, "none, optional or require"),
    ):
        with pytest.raises(ValueError, match=message):
            _native.Tls(**arguments)
