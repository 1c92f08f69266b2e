"""The controller as a program's part: access, election, the loop while it leads, probes and metrics, and a clean stop."""

import asyncio
import base64
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from prometheus_client import CONTENT_TYPE_LATEST

from modelmesh.adapters.http.requests import HttpServer, Request, Response, listen
from modelmesh.kubernetes import kinds
from modelmesh.kubernetes.adapters.api import Access, HttpApi
from modelmesh.kubernetes.adapters.mesh import GrpcMesh, MeshTls
from modelmesh.kubernetes.adapters.metrics import exposition
from modelmesh.kubernetes.adapters.scaler import END_S, ExternalScaler, serve_scaler
from modelmesh.kubernetes.kinds import DEPLOYMENT, Key
from modelmesh.kubernetes.loop.controller import Controller
from modelmesh.kubernetes.loop.leader import LOCK, Leadership, LeaseTimes
from modelmesh.kubernetes.loop.world import World, owner_of
from modelmesh.kubernetes.ports import Api, MeshCalls, MeshError
from modelmesh.kubernetes.render import Owner
from modelmesh.kubernetes.settings import Settings
from modelmesh.ports import Clock
from modelmesh.values.status import Status

AGAIN_MS = 5_000
"""How long after a bug ended the loop it is begun again."""


@dataclass(frozen=True, slots=True)
class Program:
    """How the controller is run.

    Attributes:
        identity: Of this process among its replicas.
        elect: Whether a Lease decides who works; without it this process always does.
        metrics: Address and port of `/metrics`; port 0: any.
        health: Of `/healthz` and `/readyz`.
        scaler: Of the external scaler of KEDA, while this process works; None: there is none.
        owner_deployment: In namespace scope: the Deployment that owns what is made; empty: nothing owns it.
        key_file: API key or token for calls to meshes with access rules.
    """

    access: Access
    settings: Settings
    identity: str
    elect: bool = True
    times: LeaseTimes = field(default_factory=LeaseTimes)
    metrics: tuple[str, int] = ("", 8080)
    health: tuple[str, int] = ("", 8081)
    scaler: tuple[str, int] | None = ("", 9090)
    owner_deployment: str = ""
    key_file: Path | None = None


class Running:
    """A controller that runs until it is cancelled.

    Args:
        log: Writes a line: an event's name, and fields.

    Attributes:
        ports: Where metrics and probes are, once it listens.
        scaler_port: Where the external scaler is, once it leads.
    """

    def __init__(self, program: Program, *, clock: Clock, rng: Random, log: Callable[..., object]) -> None:
        self._program = program
        self._clock = clock
        self._rng = rng
        self._log = log
        self._controller: Controller | None = None
        self._leadership: Leadership | None = None
        self._api: HttpApi | None = None
        self.ports: tuple[int, int] = (0, 0)
        self.scaler_port = 0

    async def run(self) -> None:
        """Work until cancelled; gives the lease back.

        Raises:
            OSError: A port is taken, or the token or the authority cannot be read.
        """
        program = self._program
        listeners = [
            listen(host or _everywhere(), port, setting)
            for (host, port), setting in (
                (program.metrics, "--metrics-addr"),
                (program.health, "--health-probe-bind-address"),
            )
        ]
        self.ports = (int(listeners[0].getsockname()[1]), int(listeners[1].getsockname()[1]))
        serving = [
            asyncio.ensure_future(HttpServer(listener, answer).serve())
            for listener, answer in zip(listeners, (self._metrics, self._health), strict=True)
        ]
        try:
            async with HttpApi(program.access) as api:
                self._api = api
                if not program.elect:
                    await self._work(api)
                    return
                self._leadership = Leadership(
                    api=api,
                    clock=self._clock,
                    rng=self._rng,
                    key=Key(program.settings.namespace, LOCK),
                    identity=program.identity,
                    times=program.times,
                )
                self._log("waiting for the lease", lease=LOCK, identity=program.identity)
                await self._leadership.run(lambda: self._work(api))
        finally:
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

    async def _work(self, api: Api) -> None:
        """Lead. A bug ends the loop, not the process: it is begun again with empty caches."""
        self._log("leading", identity=self._program.identity)
        if self._program.scaler is None:
            await self._control(api)
            return
        host, port = self._program.scaler
        address = (
            f"[{host or _everywhere()}]:{port}" if ":" in (host or _everywhere()) else f"{host or _everywhere()}:{port}"
        )
        server, self.scaler_port = await serve_scaler(ExternalScaler(lambda: self._controller), address)
        try:
            await self._control(api)
        finally:
            await server.stop(END_S)

    async def _control(self, api: Api) -> None:
        while True:
            try:
                owner = await self._owner(api)
                controller = self._controller = Controller(
                    api=api,
                    dial=self._dial,
                    clock=self._clock,
                    rng=self._rng,
                    settings=self._program.settings,
                    log=self._log,
                    owner=owner,
                )
                await controller.run()
            except Exception as error:  # noqa: BLE001 - the models continue being served meanwhile
                self._log("controller failed", error=f"{type(error).__name__}: {error}", again_s=AGAIN_MS / 1000)
                await self._clock.sleep(AGAIN_MS)
            finally:
                self._controller = None

    async def _owner(self, api: Api) -> Owner | None:
        """In namespace scope: the controller's Deployment, which owns what the controller makes."""
        name = self._program.owner_deployment
        if not name or not self._program.settings.namespace_scope:
            return None
        found = await api.read(DEPLOYMENT, Key(self._program.settings.namespace, name))
        return owner_of(DEPLOYMENT, found) if found is not None else None

    def _dial(self, namespace: str, address: str) -> MeshCalls:
        assert self._controller is not None
        return GrpcMesh(address, mesh_tls(self._controller.world, namespace), self._program.key_file)

    async def _metrics(self, request: Request) -> Response:
        if request.path != "/metrics":
            return Response(404)
        leads = self._leadership.leads if self._leadership is not None else not self._program.elect
        text = exposition(self._controller, self._api.requests if self._api is not None else {}, leads=leads)
        return Response(200, text, CONTENT_TYPE_LATEST)

    async def _health(self, request: Request) -> Response:
        """Alive is who answers; ready is also who waits for the lease, and who leads once the caches are filled."""
        match request.path:
            case "/healthz":
                return Response(200)
            case "/readyz":
                return Response(200 if self._controller is None or self._controller.synced else 503)
        return Response(404)


def mesh_tls(world: World, namespace: str) -> MeshTls | None:
    """What connections to a mesh show and trust, as the Secret has it now; None: they are clear text.

    Raises:
        MeshError: The Secret is not there, or lacks a key.
    """
    config = world.config(namespace)
    if config is None or not config.tls_secret:
        return None
    places = (namespace, world.settings.namespace)
    found = [world.find(kinds.SECRET, Key(place, config.tls_secret)) for place in places]
    secret = next((one for one in found if one is not None), None)
    data = (secret.get("data") or {}) if secret is not None else {}
    try:
        certificate, key = (base64.b64decode(data[name]) for name in ("tls.crt", "tls.key"))
        authority = base64.b64decode(data.get("ca.crt", ""))
    except (KeyError, ValueError) as error:
        message = f"Secret {config.tls_secret} is not in {' nor in '.join(places)}, or has no tls.crt and tls.key"
        raise MeshError(Status.FAILED_PRECONDITION, message) from error
    return MeshTls(certificate, key, certificate + b"\n" + authority, f"{config.service_name}.{namespace}")


def _everywhere() -> str:
    """All interfaces: probes and scrapers come from outside of the pod."""
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - as said above
