"""Several instances on this machine, each with its runtime: what `modelmesh up` runs.

Everything binds loopback. One instance keeps its state in SQLite; several share an etcd of their own.
"""

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from modelmesh._proto import grpc_health_pb2
from modelmesh.control.view.keys import Keys
from modelmesh.instance.local_etcd import LocalEtcd, LocalEtcdError
from modelmesh.instance.metrics_choice import with_port
from modelmesh.instance.processes import Child, inherited, last_lines, start_child
from modelmesh.instance.restarts import Restarts
from modelmesh.instance.sources import setting_names
from modelmesh.instance.state_folder import ETCD, StateFolder
from modelmesh.ports import StoreError

READY_S = 60.0
POLL_S = 0.05
SERVICE = "local"
KEY_PREFIX = "tas-runtime"
"""The default of MM_KVSTORE_PREFIX."""
RUNTIME_SETTINGS = frozenset({"MM_SVC_GRPC_MAX_MSG_SIZE"})
"""Of the instance, and of the built-in runtime as well."""

_IMPATIENT = [
    # gRPC would wait a second after the first connection that is refused, and longer after each further one.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_http_proxy", 0),  # of the environment, which does not lead to this machine
]

RuntimeCommand = Callable[[int, str], Sequence[str]]
"""Instance number and listen address (`unix:///path`) to the runtime's command line."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A process beside an instance and its runtime: a model server.

    `environment` comes on top of what children inherit.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class ClusterStartError(Exception):
    """An instance did not become ready; the message quotes its log."""


@dataclass(slots=True)
class LocalInstance:
    """One instance and the processes that it is made of."""

    name: str
    port: int
    rest_port: int
    socket_path: Path
    runtime: Child | None = None
    mesh: Child | None = None
    metrics_port: int | None = None
    beside: list[Child] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """Where clients call it."""
        return f"127.0.0.1:{self.port}"

    @property
    def rest_url(self) -> str:
        """Where clients without gRPC call it."""
        return f"http://127.0.0.1:{self.rest_port}"


@dataclass(slots=True)
class LocalCluster:
    """Starts and stops the processes.

    Attributes:
        count: How many instances.
        runtime_command: Starts a runtime; None: other processes listen on the sockets of the instances.
        first_port: Serving ports count up from here; 0: any free ports.
        first_rest_port: The same of REST ports.
        runtime_environment: Settings of one instance's runtime, by its number.
        beside: Further processes of one instance, by its number.
        folder: Where state and logs go, for us alone; None: a temporary folder, removed at the end.
        environment: Further settings of every instance.
        own_environment: Further settings of one instance, by its number.
        progress: Called with what is being waited for.
        instances: The processes, once started.
        etcd: The store of several instances; made if none is given.
        authority: PEM of who signed the instances' certificates, which are for `localhost`; None: clear text.
    """

    count: int
    runtime_command: RuntimeCommand | None
    first_port: int = 0
    first_rest_port: int = 0
    folder: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    own_environment: Callable[[int], Mapping[str, str]] = lambda _: {}
    runtime_environment: Callable[[int], Mapping[str, str]] = lambda _: {}
    beside: Callable[[int], Sequence[Beside]] = lambda _: ()
    progress: Callable[[str], None] = lambda _: None
    instances: list[LocalInstance] = field(default_factory=list)
    etcd: LocalEtcd | None = None
    authority: bytes | None = None
    _temporary: Path | None = None
    _state: StateFolder | None = None
    _store: str = ""
    _restarts: Restarts = field(default_factory=Restarts)
    _due_s: dict[str, float] = field(default_factory=dict)
    """When which child that ended is started again."""

    @property
    def logs(self) -> Path:
        """The folder of the log files."""
        assert self.folder is not None
        return self.folder / "logs"

    @property
    def store_setting(self) -> str:
        """The KV_STORE of the instances."""
        return self._store

    async def start(self) -> None:
        """Start everything and wait until every instance is ready.

        Raises:
            ClusterStartError, ChildEndedError, LocalEtcdError, StateFolderError: Something did not come up.
        """
        for first, option in ((self.first_port, "--port"), (self.first_rest_port, "--rest-port")):
            if first:
                _refuse_ports_in_use(range(first, first + self.count), option)
        if self.folder is None:
            self.folder = self._temporary = Path(tempfile.mkdtemp(prefix="modelmesh-"))
        self._state = StateFolder(self.folder)
        self._state.take()
        self.logs.mkdir(exist_ok=True, mode=0o700)
        await self._open_store(self._state)
        for number in range(1, self.count + 1):
            port = self.first_port + number - 1 if self.first_port else free_port()
            rest_port = self.first_rest_port + number - 1 if self.first_rest_port else free_port()
            socket_path = self.folder / f"runtime-{number}.sock"
            self.instances.append(LocalInstance(f"instance-{number}", port, rest_port, socket_path))
        for number, instance in enumerate(self.instances, 1):
            instance.beside = [await self._start_beside(number, one) for one in self.beside(number)]
            await self.start_runtime(instance)
            await self.start_mesh(instance)
        for instance in self.instances:
            self.progress(f"waiting for {instance.name} …")
            await self.wait_ready(instance)

    @property
    def state(self) -> StateFolder:
        """The folder, once started."""
        assert self._state is not None
        return self._state

    async def _open_store(self, state: StateFolder) -> None:
        if not state.needs_etcd(self.count) and self.etcd is None:
            self._store = state.sqlite()
            return
        self.progress("starting etcd …")
        if self.etcd is None:
            self.etcd = LocalEtcd(state.path / ETCD, durable=self._temporary is None)
        await asyncio.to_thread(self.etcd.start)
        self._store = f"etcd:{self.etcd.endpoint}"
        try:
            copied = await state.fill_etcd(self._store, Keys(root="", prefix=KEY_PREFIX, service=SERVICE))
        except StoreError as error:
            raise ClusterStartError(f"what {state.path} keeps of one instance cannot be read: {error}") from error
        if copied:
            self.progress(f"took {copied} registrations over from {state.path}, which one instance had used")

    async def start_runtime(self, instance: LocalInstance) -> None:
        """Start an instance's runtime (again), if runtimes are ours to start."""
        if self.runtime_command is None:
            return
        number = self.instances.index(instance) + 1
        instance.socket_path.unlink(missing_ok=True)
        command = self.runtime_command(number, f"unix://{instance.socket_path}")
        instance.runtime = await start_child(
            f"runtime of {instance.name}",
            command,
            log=self.logs / f"runtime-{number}.log",
            environment={
                **inherited(os.environ, settings=RUNTIME_SETTINGS),
                **self.runtime_environment(number),
            },
        )

    async def _start_beside(self, number: int, one: Beside) -> Child:
        name = f"{one.name} of instance-{number}"
        return await start_child(
            name, one.command, log=self.logs / f"{one.name}-{number}.log", environment=one.environment
        )

    async def _restart_beside(self, number: int, place: int) -> None:
        self.instances[number - 1].beside[place] = await self._start_beside(number, self.beside(number)[place])

    async def start_mesh(self, instance: LocalInstance) -> None:
        """Start an instance's own process (again)."""
        instance.mesh = await start_child(
            instance.name,
            [sys.executable, "-m", "modelmesh.cli", "serve"],
            log=self.logs / f"{instance.name}.log",
            environment={
                **inherited(
                    os.environ, settings=setting_names() | {name for name in os.environ if name.startswith("MM_")}
                ),
                "MM_SERVICE_NAME": SERVICE,
                "MM_INSTANCE_ID": instance.name,
                "KV_STORE": self._store,
                "MM_LISTEN_HOST": "127.0.0.1",
                "MM_SVC_GRPC_PORT": str(instance.port),
                "MM_REST_PORT": str(instance.rest_port),
                "MM_CONSOLE": "true",
                "WATSON_SERVICE_PORT": "0",
                "WATSON_SERVICE_ADDRESS": "127.0.0.1",
                "MM_PROBE_PORT": "NONE",
                "MM_PRESTOP_WAIT_PORT": "NONE",
                "INTERNAL_GRPC_SOCKET_PATH": str(instance.socket_path),
                "MM_LOG_FORMAT": "console",
                **self._metrics(instance),
                **self.environment,
                **self.own_environment(self.instances.index(instance) + 1),
            },
        )

    def _metrics(self, instance: LocalInstance) -> dict[str, str]:
        """Where an instance serves its metrics: several cannot listen on one port."""
        wanted = os.environ.get("MM_METRICS", "")
        if self.count == 1 or with_port(wanted, 1) == with_port(wanted, 2):
            return {}
        instance.metrics_port = instance.metrics_port or free_port()
        return {"MM_METRICS": with_port(wanted, instance.metrics_port)}

    async def wait_ready(self, instance: LocalInstance) -> None:
        """Wait until an instance answers that it is serving."""
        assert instance.mesh is not None
        async with self._channel(instance) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=grpc_health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=grpc_health_pb2.HealthCheckResponse.FromString,
            )
            deadline = asyncio.get_running_loop().time() + READY_S
            while asyncio.get_running_loop().time() < deadline:
                instance.mesh.check()
                if instance.runtime is not None:
                    instance.runtime.check()
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await check(grpc_health_pb2.HealthCheckRequest(), timeout=1.0)
                    if answer.status == grpc_health_pb2.HealthCheckResponse.SERVING:
                        return
                await asyncio.sleep(POLL_S)
        raise ClusterStartError(
            f"{instance.name} was not ready after {READY_S:.0f} s; its last words ({instance.mesh.log}):\n"
            f"{last_lines(instance.mesh.log)}"
        )

    def _channel(self, instance: LocalInstance) -> grpc.aio.Channel:
        if self.authority is None:
            return grpc.aio.insecure_channel(instance.endpoint, options=_IMPATIENT)
        credentials = grpc.ssl_channel_credentials(self.authority)
        return grpc.aio.secure_channel(f"localhost:{instance.port}", credentials, options=_IMPATIENT)

    async def mend(self) -> None:
        """Start again what has ended by itself, each after its own wait; what still runs is not touched.

        Call it again and again. `progress` is called for each end and each start.
        """
        if self.etcd is not None and self.etcd.pid is None and self._is_due("etcd", "etcd has ended"):
            with self._trying("etcd"):
                await asyncio.to_thread(self.etcd.start)
        for number, instance in enumerate(self.instances, 1):
            for place, child in enumerate(instance.beside):
                if not child.running and self._is_due(child.name, child.epitaph):
                    with self._trying(child.name):
                        await self._restart_beside(number, place)
            for own, start in ((instance.runtime, self.start_runtime), (instance.mesh, self.start_mesh)):
                if own is not None and not own.running and self._is_due(own.name, own.epitaph):
                    with self._trying(own.name):
                        await start(instance)

    def _is_due(self, name: str, ended: str) -> bool:
        now_s = time.monotonic()
        if name not in self._due_s:
            delay_s = self._restarts.ended(name, now_s=now_s)
            self._due_s[name] = now_s + delay_s
            self.progress(f"{ended}; it is started again in {delay_s:.0f} s")
        return now_s >= self._due_s[name]

    @contextlib.contextmanager
    def _trying(self, name: str) -> Iterator[None]:
        """Start a child; that it cannot be started counts as its end."""
        del self._due_s[name]
        self._restarts.started(name, now_s=time.monotonic())
        self.progress(f"starting {name} again …")
        try:
            yield
        except (OSError, LocalEtcdError) as error:
            self.progress(f"{name} cannot be started: {error}")

    @property
    def running(self) -> list[str]:
        """The names of the processes that have not ended."""
        return [child.name for child in (*self._meshes, *self._runtimes, *self._beside) if child.running]

    @property
    def _meshes(self) -> list[Child]:
        return [instance.mesh for instance in self.instances if instance.mesh is not None]

    @property
    def _runtimes(self) -> list[Child]:
        return [instance.runtime for instance in self.instances if instance.runtime is not None]

    @property
    def _beside(self) -> list[Child]:
        return [child for instance in self.instances for child in instance.beside]

    async def kill(self) -> None:
        """End every process at once; `stop` then has little to wait for."""
        await asyncio.gather(*(child.kill() for child in (*self._meshes, *self._runtimes, *self._beside)))

    async def stop(self, *, keep_logs: bool = False) -> None:
        """End every process, instances first; remove the temporary folder, but for its logs if they are to be kept."""
        await asyncio.gather(*(child.stop() for child in self._meshes))
        await asyncio.gather(*(child.stop() for child in self._runtimes))
        await asyncio.gather(*(child.stop() for child in self._beside))
        if self.etcd is not None:
            await asyncio.to_thread(self.etcd.stop)
        if self._state is not None:
            self._state.release()
        if self._temporary is None:
            return
        if keep_logs and self.logs.is_dir():
            self.progress(f"the logs are kept in {self.logs}")
            for left in self._temporary.iterdir():
                if left != self.logs:
                    shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        else:
            shutil.rmtree(self._temporary, ignore_errors=True)


def _refuse_ports_in_use(ports: Sequence[int], option: str) -> None:
    """Before anything starts: another process that listens there would be taken for our instance and get its models."""
    for port in ports:
        if (why := why_not_free(port)) is not None:
            raise ClusterStartError(
                f"port {port} cannot be had ({why}): end what listens there, or choose others with {option}"
            )


def why_not_free(port: int) -> str | None:
    """Why a port of this machine cannot be used; None: it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ended connections do not matter
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or str(error)
    return None


_FIRST_PORT, _LAST_PORT = 10_000, 32_000
"""Below those that systems give to outgoing connections: one of these would soon be taken again."""
_drawn: deque[int] = deque(maxlen=1000)
"""By this process: who asked for them may not have bound them yet."""


def free_port() -> int:
    """A port that is free at this moment, drawn so that others who look for one get another; not one of the last drawn here.

    Raises OSError if there is none.
    """
    for _ in range(1000):
        port = secrets.choice(range(_FIRST_PORT, _LAST_PORT))
        if port in _drawn:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _drawn.append(port)
            return port
    raise OSError(errno.EADDRINUSE, f"no port from {_FIRST_PORT} to {_LAST_PORT} is free on 127.0.0.1")
