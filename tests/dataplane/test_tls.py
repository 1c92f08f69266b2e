"""TLS of clients, mutual TLS between instances, certificates swapped while connections are open."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scripted import ID, WAIT, Instance, status_of

from modelmesh.adapters.dataplane import ListenerTls
from modelmesh.values.dataplane import AttemptFailed, LinkLost, Outcome, PeerAddress

Make = Callable[..., Instance]


@dataclass
class Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        builder = _builder(name, name, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: str) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        builder = _builder(subject, self.certificate.subject, key.public_key())
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        certificate = builder.sign(self.key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def listener(self, *names: str, client_auth: str = "none") -> ListenerTls:
        chain, key = self.issue(*names)
        return ListenerTls(chain, key, self.pem, client_auth)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=36_500))
    )


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new()


def channel(one: Instance, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(f"localhost:{one.plane.serving_port}", credentials, options)


async def test_a_client_over_tls(make: Make, authority: Authority) -> None:
    one = make(serving_tls=authority.listener("localhost"))
    one.local()
    async with channel(one, grpc.ssl_channel_credentials(authority.pem)) as secure:
        assert await secure.unary_unary("/test.S/Echo")(b"x" * 100_000, metadata=ID, timeout=WAIT) == b"x" * 100_000
    assert (await status_of(one.unary()(b"x", metadata=ID, timeout=0.5)))[0] in {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }


async def test_clients_must_show_a_certificate(make: Make, authority: Authority) -> None:
    one = make(serving_tls=authority.listener("localhost", client_auth="require"))
    one.local()
    chain, key = authority.issue("client")
    async with channel(one, grpc.ssl_channel_credentials(authority.pem, key, chain)) as known:
        assert await known.unary_unary("/test.S/Echo")(b"x", metadata=ID, timeout=WAIT) == b"x"
    chain, key = Authority.new().issue("client")
    for credentials in (
        grpc.ssl_channel_credentials(authority.pem),
        grpc.ssl_channel_credentials(authority.pem, key, chain),
    ):
        async with channel(one, credentials) as unknown:
            code, _ = await status_of(unknown.unary_unary("/test.S/Echo")(b"x", metadata=ID))
            assert code == grpc.StatusCode.UNAVAILABLE


async def test_certificates_are_swapped_while_connections_are_open(make: Make, authority: Authority) -> None:
    one = make(serving_tls=authority.listener("localhost"))
    one.local()
    async with channel(one, grpc.ssl_channel_credentials(authority.pem)) as before:
        echo = before.unary_unary("/test.S/Echo")
        assert await echo(b"1", metadata=ID, timeout=WAIT) == b"1"
        other = Authority.new()
        one.plane.set_tls(other.listener("localhost"), None)
        assert await echo(b"2", metadata=ID, timeout=WAIT) == b"2"
    async with channel(one, grpc.ssl_channel_credentials(other.pem)) as after:
        assert await after.unary_unary("/test.S/Echo")(b"3", metadata=ID, timeout=WAIT) == b"3"


async def test_instances_speak_mutual_tls(make: Make, authority: Authority) -> None:
    near = make("near", peer_tls=authority.listener("mesh", client_auth="require"))
    far = make("far", peer_tls=authority.listener("mesh", client_auth="require"))
    far.local()
    near.remote(far)
    near.plane.set_peers([("far", PeerAddress(far.peer_address.address, "mesh"))])
    assert await near.unary()(b"x", metadata=ID, timeout=WAIT) == b"x"


async def test_an_instance_with_another_name_is_not_spoken_to(make: Make, authority: Authority) -> None:
    near = make("near", peer_tls=authority.listener("mesh", client_auth="require"))
    far = make("far", peer_tls=authority.listener("imposter", client_auth="require"))
    far.local()
    near.remote(far)
    near.plane.set_peers([("far", PeerAddress(far.peer_address.address, "mesh"))])
    call = near.unary()(b"x", metadata=ID)
    assert await near.brain.next(LinkLost) == LinkLost("far")
    failed = await near.brain.next(AttemptFailed)
    assert failed.outcome == Outcome.LOST
    call.cancel()


def test_material_that_does_not_fit_is_refused(authority: Authority) -> None:
    from modelmesh._core import _native

    chain, key = authority.issue("a")
    _, other = authority.issue("b")
    for arguments, message in (
        ({"certificate_chain": chain, "private_key": other}, "do not fit"),
        ({"certificate_chain": b"", "private_key": key}, "no certificate"),
        ({"certificate_chain": chain, "private_key": b"?"}, "private key"),
        ({"certificate_chain": chain, "private_key": key, "trusted": b""}, "hold no certificate"),
        ({"certificate_chain": chain, "private_key": key, "client_auth": "maybe"}, "none, optional or require"),
    ):
        with pytest.raises(ValueError, match=message):
            _native.Tls(**arguments)
