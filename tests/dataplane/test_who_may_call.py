"""Who may call what, over real sockets: keys, tokens, certificates, quotas, and the same by REST."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from rest_client import X, mirror
from scripted import ID, WAIT, Instance, Runtime, echo, serve_calls, status_of, until

from modelmesh._proto import grpc_health_pb2 as health_pb
from modelmesh._proto import model_mesh_pb2 as mesh_pb
from modelmesh.adapters.clock import SystemClock
from modelmesh.adapters.credentials import KeySetAwayError
from modelmesh.adapters.dataplane import ListenerTls
from modelmesh.control.tasks import Tasks
from modelmesh.management.access import Access
from modelmesh.management.calls import Call, CallServer, Method
from modelmesh.policy.access import AccessRules, Grant, Issuer, Tenant, hash_of_key
from modelmesh.testing.certificates import Authority
from modelmesh.values.access import Identity, Listener, Verb
from modelmesh.values.dataplane import Asked, DataPlaneEvent, Rules
from modelmesh.values.ids import ModelId

Make = Callable[..., Instance]
INFER = frozenset({Verb.INFER})
SIGNING = ec.generate_private_key(ec.SECP256R1())
CORP = Issuer("corp", "https://login.example.org", "mesh", "/keys")
RULES = AccessRules(
    principals={
        name: Identity(name, tenant="small" if name == "batch" else "") for name in ("reporting", "batch", "ops")
    },
    keys={hash_of_key("k1"): "reporting", hash_of_key("k2"): "batch"},
    certificates={"ops.example.org": "ops"},
    issuers=(CORP,),
    grants=(
        Grant(("reporting",), INFER, ("m", "fraud-*"), ("v",)),
        Grant(("batch", "ops", "corp:alice"), INFER, ("*",)),
        Grant(("reporting",), INFER, ("grpc-only",), listeners=frozenset({Listener.GRPC})),
    ),
    tenants={"small": Tenant("small", calls_at_once=1)},
)


class Guarded:
    """An instance that asks who calls, with the rules above, and answers a few calls of its own."""

    def __init__(self, one: Instance) -> None:
        self.one = one
        self.asked = 0
        self.keys: Sequence[Any] | Exception = [
            jwt.get_algorithm_by_name("ES256").to_jwk(SIGNING.public_key(), as_dict=True)  # type: ignore[call-overload]
        ]
        tasks = Tasks(lambda *failure: self.failures.append(failure))
        self.failures: list[Any] = []
        self.access = Access(dataplane=one.plane, clock=SystemClock(), tasks=tasks, keys=self._keys)
        self.server = CallServer(
            dataplane=one.plane,
            tasks=tasks,
            methods={
                "mmesh.ModelMesh/getModelStatus": Method(mesh_pb.GetStatusRequest, self._status),
                "mmesh.ModelMesh/getVModelStatus": Method(mesh_pb.GetVModelStatusRequest, self._vmodel_status),
                "grpc.health.v1.Health/Check": Method(health_pb.HealthCheckRequest, self._health),
                "mmesh.ModelMesh/unlisted": Method(mesh_pb.GetStatusRequest, self._status),
            },
            access=self.access,
            failed=lambda *failure: self.failures.append(failure),
        )
        one.brain.decide = self._decide
        one.plane.set_rules(Rules(serving_services=("mmesh.ModelMesh", "grpc.health.v1.Health"), peer_services=()))
        self.access.use(RULES)

    async def _keys(self, where: str, kid: str) -> Sequence[Any]:
        assert (where, kid) == ("/keys", "")
        if isinstance(self.keys, Exception):
            raise self.keys
        return self.keys

    async def _status(self, call: Call, request: mesh_pb.GetStatusRequest) -> mesh_pb.ModelStatusInfo:
        assert call.caller is not None
        assert not {"authorization", "x-api-key"} & set(call.headers)
        return mesh_pb.ModelStatusInfo(status=mesh_pb.ModelStatusInfo.LOADED)

    async def _vmodel_status(self, _: Call, request: mesh_pb.GetVModelStatusRequest) -> mesh_pb.VModelStatusInfo:
        return mesh_pb.VModelStatusInfo()

    async def _health(self, _: Call, request: health_pb.HealthCheckRequest) -> health_pb.HealthCheckResponse:
        return health_pb.HealthCheckResponse(status=health_pb.HealthCheckResponse.SERVING)

    def _decide(self, event: DataPlaneEvent) -> None:
        if isinstance(event, Asked):
            self.asked += 1
            self.access.asked(event)
        serve_calls(self.server, event)

    def call(self, *credential: tuple[str, str], model: str = "m", method: str = "Echo") -> Any:
        return self.one.unary(method)(b"x", metadata=(("mm-model-id", model), *credential), timeout=WAIT)

    async def refusal(self, *credential: tuple[str, str], model: str = "m") -> tuple[grpc.StatusCode, str]:
        return await status_of(self.call(*credential, model=model))


K1, K2 = ("authorization", "Bearer k1"), ("x-api-key", "k2")


@pytest.fixture
async def guarded(make: Make) -> AsyncIterator[Guarded]:
    one = make(rest="127.0.0.1:0")
    one.local()
    guarded = Guarded(one)
    yield guarded
    assert not guarded.failures


def token(**claims: Any) -> tuple[str, str]:
    import time

    body = {"iss": CORP.url, "aud": "mesh", "sub": "alice", "exp": time.time() + 600, **claims}
    return ("authorization", f"Bearer {jwt.encode(body, SIGNING, 'ES256')}")


async def test_without_a_credential_or_with_an_unknown_one_nobody_calls(guarded: Guarded, runtime: Runtime) -> None:
    for credential, said in [
        ([], "the call has no credential"),
        ([("authorization", "Bearer nobody")], "the API key is unknown"),
        ([("authorization", "Basic k1")], "the credential must be"),
        ([K1, K1], "a call has one credential"),
    ]:
        code, details = await guarded.refusal(*credential)
        assert (code, said in details) == (grpc.StatusCode.UNAUTHENTICATED, True), details
    assert runtime.calls == []


async def test_a_key_calls_what_it_may_and_the_runtime_does_not_see_it(guarded: Guarded, runtime: Runtime) -> None:
    for _ in range(3):
        assert await guarded.call(K1) == b"x"
    assert await guarded.call(K2) == b"x"
    assert guarded.asked == 2, "each credential is asked about once"
    assert not {"authorization", "x-api-key"} & set(runtime.metadata())


async def test_a_refusal_does_not_tell_what_there_is(guarded: Guarded) -> None:
    guarded.one.local("secret", load_id=2)
    refused = await guarded.refusal(K1, model="secret")
    assert refused == (grpc.StatusCode.PERMISSION_DENIED, "reporting may not infer with model secret")
    assert await guarded.refusal(K1, model="nothing") == (refused[0], "reporting may not infer with model nothing")
    several = guarded.one.unary()(b"x", metadata=(("mm-model-id", "m"), ("mm-model-id", "secret"), K1))
    assert await status_of(several) == refused


async def test_new_rules_hold_at_once_for_known_credentials(guarded: Guarded) -> None:
    assert await guarded.call(K1) == b"x"
    guarded.access.use(AccessRules(principals=RULES.principals, keys=RULES.keys))
    assert (await guarded.refusal(K1))[0] == grpc.StatusCode.PERMISSION_DENIED
    guarded.access.use(AccessRules())
    assert (await guarded.refusal(K1))[0] == grpc.StatusCode.UNAUTHENTICATED


async def test_tokens(guarded: Guarded) -> None:
    assert await guarded.call(token()) == b"x"
    code, details = await guarded.refusal(token(sub="bob"))
    assert (code, details) == (grpc.StatusCode.PERMISSION_DENIED, "corp:bob may not infer with model m")
    code, details = await guarded.refusal(token(exp=1))
    assert (code, details) == (grpc.StatusCode.UNAUTHENTICATED, "the token has expired")


async def test_a_key_set_that_cannot_be_had_is_not_the_callers_fault(guarded: Guarded) -> None:
    keys, guarded.keys = guarded.keys, KeySetAwayError("no route to 10.0.0.1")
    refused = await guarded.refusal(token())
    assert refused == (grpc.StatusCode.UNAVAILABLE, "the keys of issuer corp cannot be had now; try again")
    assert await guarded.call(K1) == b"x", "keys need no issuer"
    guarded.keys = keys
    assert await guarded.call(token(sub="alice")) == b"x"


async def test_a_certificate_is_a_credential(make: Make) -> None:
    authority = Authority()
    issued = authority.issue("localhost")
    tls = ListenerTls(issued.certificate, issued.key, authority.pem, "optional")
    one = make(serving_tls=tls)
    one.local()
    Guarded(one)

    async def call(client: Any) -> Any:
        pair = () if client is None else (client.key, client.certificate)
        credentials = grpc.ssl_channel_credentials(authority.pem, *pair)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(f"localhost:{one.plane.serving_port}", credentials, options) as channel:
            return await channel.unary_unary("/test.S/Echo")(b"x", metadata=ID, timeout=WAIT)

    assert await call(authority.issue("ops.example.org")) == b"x"
    for client in (authority.issue("other.example.org"), None):
        code, _ = await status_of(call(client))
        assert code == grpc.StatusCode.UNAUTHENTICATED


async def test_a_tenant_beyond_its_quota_is_told_when_to_come_back(guarded: Guarded, runtime: Runtime) -> None:
    go = asyncio.Event()

    async def held(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await go.wait()
        async for request in echo(requests, context):
            yield request

    runtime.script["Held"] = held
    first = guarded.call(K2, method="Held")
    await asyncio.wait_for(runtime.called.wait(), WAIT)
    second = guarded.call(K2)
    code, details = await status_of(second)
    assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "tenant small has 1 calls running, its limit")
    trailers = dict(await second.trailing_metadata())
    assert int(trailers["grpc-retry-pushback-ms"]) >= 1
    assert await guarded.call(K1) == b"x", "others are not held up"
    go.set()
    assert await first == b"x"
    assert await guarded.call(K2) == b"x"

    def count(what: str) -> str:
        found = re.search(rf'^modelmesh_tenant_{what}_total{{tenant="small"}} (\d+)$', text(), flags=re.MULTILINE)
        return found[1] if found is not None else ""

    def text() -> str:
        return guarded.one.plane.metrics().decode()

    await until(lambda: count("calls") == "2")  # a call is counted after its answer has been sent
    assert (count("refused_calls"), count("bytes")) == ("1", "4")
    assert count("call_milliseconds") != ""


async def test_what_tenants_use_of_models_is_counted(guarded: Guarded, runtime: Runtime) -> None:
    plane = guarded.one.plane
    guarded.one.local("other")
    for key, model in [(K1, "m"), (K2, "m"), (K2, "m"), (K2, "other")]:
        assert await guarded.call(key, model=model) == b"x"
    plane.count_load("owner", ModelId("m"))
    runtime.script["Bad"] = fail
    code, _ = await status_of(guarded.call(K2, model="m", method="Bad"))
    assert code == grpc.StatusCode.INTERNAL

    def counted() -> set[tuple[str, str, int, int, int, int]]:
        return {(one.tenant, one.model, one.calls, one.failed, one.size, one.loads) for one in plane.consumption()}

    expected = {
        ("", "m", 1, 0, 2, 0),
        ("small", "m", 3, 1, 5, 0),
        ("small", "other", 1, 0, 2, 0),
        ("owner", "m", 0, 0, 0, 1),
    }
    await until(lambda: counted() == expected)  # a call is counted after its answer has been sent
    assert all(one.call_us > 0 for one in plane.consumption() if one.calls)
    plane.forget_series(ModelId("m"))
    gone = {("", "(other)", 1, 0, 2, 0), ("small", "(other)", 3, 1, 5, 0), ("owner", "(other)", 0, 0, 0, 1)}
    assert counted() == gone | {("small", "other", 1, 0, 2, 0)}


async def fail(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for _request in requests:
        pass
    await context.abort(grpc.StatusCode.INTERNAL, "no")
    yield b""


async def test_services_of_the_instance_ask_too_and_health_does_not(guarded: Guarded) -> None:
    channel = guarded.one.channel
    health = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert await health(b"", timeout=WAIT) == b"\x08\x01"
    status = channel.unary_unary("/mmesh.ModelMesh/getModelStatus")
    request = mesh_pb.GetStatusRequest(modelId="m").SerializeToString()
    assert (await status_of(status(request)))[0] == grpc.StatusCode.UNAUTHENTICATED
    assert await status(request, metadata=(K1,), timeout=WAIT)
    other = mesh_pb.GetStatusRequest(modelId="other").SerializeToString()
    refused = await status_of(status(other, metadata=(K1,)))
    assert refused == (grpc.StatusCode.PERMISSION_DENIED, "reporting may not ask for the status of model other")
    unlisted = channel.unary_unary("/mmesh.ModelMesh/unlisted")
    code, details = await status_of(unlisted(request, metadata=(K1,)))
    assert (code, "may not call mmesh.ModelMesh/unlisted" in details) == (grpc.StatusCode.PERMISSION_DENIED, True)


async def test_refusals_are_counted_by_reason(guarded: Guarded) -> None:
    await guarded.refusal()
    await guarded.refusal(("authorization", "Bearer nobody"))
    await guarded.refusal(K1, model="secret")
    text = guarded.one.plane.metrics().decode()
    assert 'modelmesh_rejected_requests_total{reason="unauthenticated"} 2' in text
    assert 'modelmesh_rejected_requests_total{reason="not-permitted"} 1' in text


async def test_the_same_by_rest(guarded: Guarded, runtime: Runtime) -> None:
    runtime.script["ModelInfer"] = mirror
    base = f"http://127.0.0.1:{guarded.one.plane.rest_port}"
    async with aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(WAIT)) as session:

        async def infer(model: str, **headers: str) -> tuple[int, Any, Any]:
            url = f"/v2/models/{model}/infer"
            async with session.post(url, json={"inputs": [X]}, headers=headers) as answer:
                return answer.status, json.loads(await answer.read()), answer.headers

        status, body, headers = await infer("m")
        assert (status, "no credential" in body["error"]) == (401, True)
        assert headers["WWW-Authenticate"] == "Bearer"
        assert (await infer("m", authorization="Bearer k1"))[0] == 200
        assert (await infer("m", **{"X-Api-Key": "k1"}))[0] == 200
        status, body, _ = await infer("other", authorization="Bearer k1")
        assert (status, body) == (403, {"error": "reporting may not infer with model other"})
        guarded.one.local("grpc-only", load_id=2)
        assert await guarded.call(K1, model="grpc-only") == b"x"
        assert (await infer("grpc-only", authorization="Bearer k1"))[0] == 403
        async with session.get("/v2/health/live") as answer:
            assert answer.status == 200
