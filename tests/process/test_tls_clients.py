"""TLS with real certificates: clients of three kinds, mutual TLS between instances, certificates that change."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import grpc
import grpc.aio
import pytest
from conftest import Mesh, eventually

from modelmesh._proto import grpc_health_pb2 as health_pb
from modelmesh.instance.local_cluster import LocalCluster
from modelmesh.testing.certificates import Authority, self_signed
from modelmesh.testing.scripted_runtime import ScriptedRuntime

pytestmark = pytest.mark.process

SERVING = b"\x00\x00\x00\x00\x02\x08\x01"
"""A health answer as it stands in the body."""


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


Start = Callable[..., Awaitable[Mesh]]


@pytest.fixture
async def start(tmp_path: Path, authority: Authority) -> AsyncIterator[Start]:
    """Starts instances whose certificate is in `tmp_path`; calls go over TLS and trust `root`."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(count: int = 1, *, root: bytes = b"", **environment: str) -> Mesh:
            (tmp_path / "ca.pem").write_bytes(root or authority.pem)
            settings = {
                "MM_TLS_KEY_CERT_PATH": str(tmp_path / "tls" / "tls.crt"),
                "MM_TLS_PRIVATE_KEY_PATH": str(tmp_path / "tls" / "tls.key"),
                "MM_TLS_TRUST_CERT_PATH": str(tmp_path / "ca.pem"),
                **environment,
            }
            cluster = LocalCluster(
                count, None, folder=tmp_path / "mesh", environment=settings, authority=root or authority.pem
            )
            (tmp_path / "mesh").mkdir()
            runtimes = []
            for number in range(1, count + 1):
                scripted = ScriptedRuntime(listen=f"unix://{tmp_path}/mesh/runtime-{number}.sock")
                runtimes.append(await stack.enter_async_context(scripted))
            stack.push_async_callback(cluster.stop)
            await cluster.start()
            mesh = Mesh(cluster, runtimes)
            await mesh.close()
            mesh.channels = [
                secure(instance.port, grpc.ssl_channel_credentials(root or authority.pem))
                for instance in cluster.instances
            ]
            stack.push_async_callback(mesh.close)
            return mesh

        yield begin


def secure(port: int, credentials: grpc.ChannelCredentials, host: str = "localhost") -> grpc.aio.Channel:
    return grpc.aio.secure_channel(f"{host}:{port}", credentials, [("grpc.use_local_subchannel_pool", 1)])


async def run(*command: str, given: bytes = b"") -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(20):
        output, _ = await process.communicate(given)
    return process.returncode or 0, output


async def curl(authority: Path, port: int, *options: str, host: str = "localhost") -> tuple[int, bytes]:
    """Ask for the health of the instance as a gRPC client would."""
    return await run(
        *("curl", "--silent", "--http2", "--max-time", "10", "--cacert", str(authority), *options),
        *("--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary", "@-"),
        f"https://{host}:{port}/grpc.health.v1.Health/Check",
        given=b"\x00\x00\x00\x00\x00",
    )


async def test_grpcio_curl_and_openssl_are_served(start: Start, authority: Authority, tmp_path: Path) -> None:
    authority.issue("localhost").write(tmp_path / "tls", passphrase="secret words")
    mesh = await start(MM_TLS_PRIVATE_KEY_PASSPHRASE="secret words")
    port = mesh.cluster.instances[0].port
    await mesh.register("m")
    assert (await mesh.predict("m")).results
    assert await curl(tmp_path / "ca.pem", port) == (0, SERVING)
    status, said = await run(
        *("openssl", "s_client", "-connect", f"localhost:{port}", "-alpn", "h2", "-brief"),
        *("-CAfile", str(tmp_path / "ca.pem"), "-verify_hostname", "localhost", "-verify_return_error"),
    )
    assert (status, b"Verification: OK" in said) == (0, True), said
    assert "secret words" not in mesh.log()

    # Clients that should not trust us do not: a strange authority, another host name.
    (tmp_path / "strange.pem").write_bytes(Authority("strange").pem)
    assert (await curl(tmp_path / "strange.pem", port))[0] == 60
    assert (await curl(tmp_path / "ca.pem", port, host="127.0.0.1"))[0] == 60
    assert (await curl(tmp_path / "ca.pem", port, "--tls-max", "1.1"))[0] == 35
    # Clear text at the port of TLS ends at once.
    assert (await run("curl", "--silent", "--http2-prior-knowledge", f"http://localhost:{port}/"))[0] != 0


async def test_clients_must_show_a_certificate_of_a_folder_of_authorities(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    authority.issue("localhost").write(tmp_path / "tls")
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    second = Authority("second")
    (trusted / "one.pem").write_bytes(authority.pem)
    (trusted / "two.crt").write_bytes(second.pem)
    (trusted / "notes.txt").write_text("no certificate")
    mesh = await start(MM_TLS_CLIENT_AUTH="OPTIONAL", MM_TLS_TRUST_CERT_PATH=str(trusted))
    port = mesh.cluster.instances[0].port
    assert await curl(tmp_path / "ca.pem", port, *certificate(tmp_path / "known", second)) == (0, SERVING)
    assert await curl(tmp_path / "ca.pem", port) == (0, SERVING)
    strange = certificate(tmp_path / "strange", Authority("strange"))
    assert (await curl(tmp_path / "ca.pem", port, *strange))[0] != 0
    late, key = second.issue("client", expired=True).write(tmp_path / "late")
    assert (await curl(tmp_path / "ca.pem", port, "--cert", str(late), "--key", str(key)))[0] != 0


async def test_the_command_line_shows_a_certificate(start: Start, authority: Authority, tmp_path: Path) -> None:
    authority.issue("localhost").write(tmp_path / "tls")
    mesh = await start(MM_TLS_CLIENT_AUTH="OPTIONAL")
    listing = [*(sys.executable, "-m", "modelmesh.cli", "models", "list"), *("--ca", str(tmp_path / "ca.pem"))]
    listing += ["--address", f"localhost:{mesh.cluster.instances[0].port}"]

    async def listed(authority: Authority) -> tuple[int, bytes]:
        shown, key = authority.issue("person").write(tmp_path / "person")
        return await run("env", f"MODELMESH_CERT={shown}", f"MODELMESH_KEY={key}", *listing)

    assert (await listed(authority))[0] == 0
    assert (await listed(Authority("strange")))[0] == 1
    status, said = await run("env", "MODELMESH_CERT=/nowhere", *listing)
    assert (status, said) == (1, b"modelmesh: cannot read /nowhere: No such file or directory\n")


async def test_certificates_change_while_a_stream_is_open(start: Start, authority: Authority, tmp_path: Path) -> None:
    authority.issue("localhost").write(tmp_path / "tls")
    mesh = await start()
    port = mesh.cluster.instances[0].port
    watch = mesh.channels[0].unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb.HealthCheckResponse.FromString,
    )(health_pb.HealthCheckRequest())
    assert (await watch.read()).status == health_pb.HealthCheckResponse.SERVING
    await mesh.register("m", load=True, sync=True)

    other = Authority("other")
    (tmp_path / "other.pem").write_bytes(other.pem)
    other.issue("localhost").write(tmp_path / "tls")

    async def served_by(ca: str) -> bool:
        return await curl(tmp_path / ca, port) == (0, SERVING)

    await eventually(lambda: served_by("other.pem"))
    assert (await curl(tmp_path / "ca.pem", port))[0] == 60
    assert (await mesh.predict("m")).results  # on the connection of before
    assert not watch.done()

    # What cannot be used is said, and what was good stays.
    refused = [
        (b"garbage", "holds no certificate in PEM form"),
        (None, "cannot read"),
        (other.issue("localhost").certificate, "do not fit"),
    ]
    for content, said in refused:
        certificate = tmp_path / "tls" / "tls.crt"
        if content is None:
            certificate.unlink()
        else:
            certificate.write_bytes(content)

        async def told(said: str = said) -> bool:
            return said in mesh.log() and "the certificates from before stay in use" in mesh.log()

        await eventually(told)
        assert await served_by("other.pem")
    authority.issue("localhost").write(tmp_path / "tls")
    await eventually(lambda: served_by("ca.pem"))
    assert not watch.done()
    watch.cancel()


async def test_an_expired_certificate_is_not_accepted_by_clients(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    authority.issue("localhost").write(tmp_path / "tls")
    mesh = await start()
    port = mesh.cluster.instances[0].port
    authority.issue("localhost", expired=True).write(tmp_path / "tls")

    async def expired() -> bool:
        return (await curl(tmp_path / "ca.pem", port))[0] == 60

    await eventually(expired)


async def test_instances_speak_mutual_tls_by_a_name_of_their_certificate(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """Pods have no certificates for their addresses, and the certificate is the same for all."""
    authority.issue("localhost", "*.mesh.example").write(tmp_path / "tls")
    mesh = await start(2)
    await mesh.register("m", load=True, sync=True)
    for via in (0, 1):
        assert (await mesh.predict("m", via=via)).results
    assert mesh.loads("m") == 1
    authority.issue("localhost", "*.mesh.example").write(tmp_path / "tls")

    async def changed() -> bool:
        return all("certificates_changed" in mesh.log(number) for number in (0, 1))

    await eventually(changed)
    for number in range(8):
        await mesh.register(f"m{number}", via=number % 2)
        assert (await mesh.predict(f"m{number}", via=(number + 1) % 2)).results
    peer = peer_port(mesh.log())
    known = certificate(tmp_path / "known", authority)
    assert await curl(tmp_path / "ca.pem", peer, *known) == (0, SERVING)
    assert (await curl(tmp_path / "ca.pem", peer))[0] != 0
    assert (await curl(tmp_path / "ca.pem", peer, *certificate(tmp_path / "strange", Authority("strange"))))[0] != 0


async def test_one_self_signed_certificate_will_do_for_everybody(start: Start, tmp_path: Path) -> None:
    shared = self_signed("localhost", authority=True)
    shared.write(tmp_path / "tls")
    mesh = await start(2, root=shared.certificate, MM_TLS_TRUST_CERT_PATH="")
    for number in range(4):
        await mesh.register(f"m{number}", via=number % 2)
        assert (await mesh.predict(f"m{number}", via=(number + 1) % 2)).results
    await mesh.register("m", load=True, sync=True)

    async def is_seen() -> bool:
        return await mesh.state("m", via=1) == "LOADED"

    await eventually(is_seen)  # by the other instance, whose view is a moment behind


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"MM_TLS_PRIVATE_KEY_PASSPHRASE": "wrong"}, "MM_TLS_PRIVATE_KEY_PATH: "),
        ({"MM_TLS_TRUST_CERT_PATH": "/nowhere"}, "MM_TLS_TRUST_CERT_PATH: cannot read /nowhere"),
        ({"MM_INTERNAL_TRUST_CERTS": "{tmp}/empty"}, "holds no .pem or .crt file"),
        ({"MM_TLS_KEY_CERT_PATH": "{tmp}/tls/tls.key"}, "MM_TLS_KEY_CERT_PATH: "),
        ({"MM_TLS_KEY_CERT_PATH": "{tmp}/other/tls.crt"}, "do not fit"),
        ({"MM_TLS_KEY_CERT_PATH": "{tmp}/nameless/tls.crt", "MM_TLS_PRIVATE_KEY_PATH": "{tmp}/nameless/tls.key"},
         "other instances cannot check it"),
    ],
)  # fmt: skip
async def test_certificates_that_cannot_be_used_end_the_start(
    tmp_path: Path, authority: Authority, environment: Mapping[str, str], said: str
) -> None:
    from test_faults import serve

    authority.issue("localhost").write(tmp_path / "tls", passphrase="right")
    authority.issue("localhost").write(tmp_path / "other")
    authority.issue().write(tmp_path / "nameless")
    (tmp_path / "empty").mkdir()
    status, output = await serve(
        tmp_path,
        **{
            "MM_TLS_KEY_CERT_PATH": str(tmp_path / "tls" / "tls.crt"),
            "MM_TLS_PRIVATE_KEY_PATH": str(tmp_path / "tls" / "tls.key"),
            "MM_TLS_PRIVATE_KEY_PASSPHRASE": "right",
            **{name: value.format(tmp=tmp_path) for name, value in environment.items()},
        },
    )
    assert (status, said in output) == (1, True), output
    assert "right" not in output


def certificate(folder: Path, authority: Authority) -> tuple[str, ...]:
    issued, key = authority.issue("client").write(folder)
    return "--cert", str(issued), "--key", str(key)


def peer_port(log: str) -> int:
    return int(log.partition("peer=")[2].split()[0].rpartition(":")[2])
