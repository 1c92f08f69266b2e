"""Whole clusters of production control planes on one virtual-time loop.

Only the ports are fakes: one shared store in memory, a network, a data plane and a runtime per
instance. Everything that decides is what runs in production.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random

from modelmesh._proto import admin_pb2, model_mesh_pb2, peer_pb2
from modelmesh.adapters.peers import model_history, peer_answer, peer_counts, peer_usage
from modelmesh.adapters.store.sqlite import SqliteStore
from modelmesh.control.life.drain import Drained
from modelmesh.control.plane import ControlPlane
from modelmesh.control.settings import ControlLimits, InstanceIdentity
from modelmesh.control.view.keys import CopyKey, Keys
from modelmesh.machines.model_copy import CopyState
from modelmesh.management.admin import Admin
from modelmesh.management.calls import Call
from modelmesh.management.labels import Labels
from modelmesh.management.models import Models
from modelmesh.management.peer import Peer
from modelmesh.management.rollouts import Rollouts
from modelmesh.management.splits import Splits
from modelmesh.management.vmodels import VModelCalls
from modelmesh.ports import PeerAnswer, PeerUnreachableError, RuntimeCallError, Store, StoreError
from modelmesh.testing.attempts import Answer
from modelmesh.testing.clock import VirtualClock
from modelmesh.testing.dataplane import SimulatedDataPlane
from modelmesh.testing.fake_runtime import FakeRuntime
from modelmesh.testing.model_paths import ModelScript
from modelmesh.testing.network import FUTURE_WORD, FakeNetwork
from modelmesh.values.dataplane import Consumption, PeerAddress
from modelmesh.values.events import Event
from modelmesh.values.explanation import ModelHistory
from modelmesh.values.ids import InstanceId, ModelId, Revision, Token, VModelId
from modelmesh.values.memory import Memory
from modelmesh.values.priority import Priority
from modelmesh.values.records import CopyRecord
from modelmesh.values.status import Status
from modelmesh.values.vmodel_counts import VModelCounts

KEYS = Keys(root="", prefix="mm", service="sim")


RuntimeInfer = Callable[[FakeRuntime, ModelId, object], Awaitable[object]]
"""A runtime's inference: runtime, model and payload in, answer out; raises RuntimeCallError."""


class FakePeers:
    """`ports.Peers` between the planes of one simulated cluster."""

    def __init__(self, cluster: "SimulatedCluster", own: InstanceId) -> None:
        self._cluster = cluster
        self._own = own

    async def ensure_loaded(
        self,
        address: PeerAddress,
        model: ModelId,
        *,
        last_use_ms: int,
        sync: bool,
        retry: bool,
        view: Revision | None,
        timeout_ms: int,
    ) -> PeerAnswer:
        """Ask the instance at `address`."""
        peer = self._peer(address)
        await asyncio.sleep(self._cluster.network.latency_ms / 1000)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                answer = await Peer(peer.plane).ensure_loaded(
                    Call(Token(0), "modelmesh.v1.Peer/EnsureLoaded", {}, send=lambda _: None),
                    peer_pb2.EnsureLoadedRequest(
                        model_id=model, last_use_ms=last_use_ms, sync=sync, view=view or 0, retry=retry
                    ),
                )
        except TimeoutError as error:
            raise PeerUnreachableError("no answer in time") from error
        if self._peer(address).plane.identity.instance in self._cluster.network.from_the_future:
            answer = _in_later_words(answer)
        return peer_answer(answer)

    async def recall(self, address: PeerAddress, model: ModelId, *, load: Memory, timeout_ms: int) -> ModelHistory:
        """Ask the instance at `address` what it remembers."""
        del timeout_ms
        request = peer_pb2.RecallRequest(model_id=model, load_bytes=load.bytes)
        answer = await Peer(self._peer(address).plane).recall(
            Call(Token(0), "modelmesh.v1.Peer/Recall", {}, send=lambda _: None), request
        )
        return model_history(answer, asked=bool(load))

    async def count_usage(self, address: PeerAddress, *, timeout_ms: int) -> tuple[Sequence[Consumption], int]:
        """Ask the instance at `address` what was used there."""
        del timeout_ms
        answer = await Peer(self._peer(address).plane).count_usage(
            Call(Token(0), "modelmesh.v1.Peer/CountUsage", {}, send=lambda _: None), peer_pb2.CountUsageRequest()
        )
        return peer_usage(answer)

    async def count_vmodel(self, address: PeerAddress, vmodel: VModelId, *, timeout_ms: int) -> VModelCounts:
        """Ask the instance at `address` what was counted there."""
        del timeout_ms
        answer = await Peer(self._peer(address).plane).count_vmodel(
            Call(Token(0), "modelmesh.v1.Peer/CountVModel", {}, send=lambda _: None),
            admin_pb2.CountVModelRequest(vmodel_id=vmodel),
        )
        return peer_counts(answer)

    async def ping(self, address: PeerAddress, *, timeout_ms: int) -> InstanceId:
        """Ask who is there."""
        del timeout_ms
        plane = self._peer(address).plane
        plane.pinged()
        return plane.identity.instance

    async def close(self) -> None:
        """Nothing is open."""

    def _peer(self, address: PeerAddress) -> "SimulatedInstance":
        plane = self._cluster.network.plane(self._own, address.address)
        peer = self._cluster.instances.get(plane.instance) if plane is not None else None
        if peer is None:
            raise PeerUnreachableError(f"{address.address} cannot be reached")
        return peer


@dataclass(slots=True)
class SimulatedInstance:
    """One instance and its fakes."""

    plane: ControlPlane
    dataplane: SimulatedDataPlane
    runtime: FakeRuntime
    models: Models
    vmodels: VModelCalls
    admin: Admin
    splits: Splits
    clock: VirtualClock

    def set_skew(self, skew_ms: int) -> None:
        """Set the clock of its host: it jumps."""
        self.clock.skew_ms = skew_ms


class SimulatedCluster:
    """A cluster that tests drive. Use within `run_virtual`.

    Args:
        seed: Decides every draw.
        store: Shared by all; by default one in memory.
    """

    def __init__(self, *, seed: int = 0, store: Store | None = None, latency_ms: int = 1) -> None:
        self.rng = Random(seed)  # noqa: S311 - a simulation
        self.store: Store = store if store is not None else SqliteStore(":memory:", expires_leases=True)
        self.network = FakeNetwork(latency_ms=latency_ms)
        self.instances: dict[InstanceId, SimulatedInstance] = {}
        self.story: list[Event] = []
        self.keep_story = True
        self.prepare: Callable[[SimulatedInstance], None] = lambda _: None
        """Called with each instance before it starts."""
        self.watchers: list[Callable[[Event], None]] = []
        """Called for every event, as it happens."""
        self.crashes: list[str] = []
        self.keeps: Callable[[BaseException], bool] = lambda _: True
        """Whether an unexpected exception is kept in `crashes`: not what a test raises itself."""
        self._addresses = 0

    async def add(
        self,
        name: str,
        *,
        capacity_bytes: int = 1000,
        default_size_bytes: int = 100,
        loading_concurrency: int = 2,
        load_ms: int = 10,
        skew_ms: int = 0,
        labels: tuple[str, ...] = (),
        zone: str = "",
        location: str = "",
        limits: ControlLimits | None = None,
        runtime: FakeRuntime | None = None,
        store: Store | None = None,
        infer: RuntimeInfer | None = None,
    ) -> SimulatedInstance:
        """Start an instance and wait until it is a member."""
        instance = InstanceId(name)
        clock = VirtualClock(skew_ms)
        self._addresses += 1
        address = f"sim-{self._addresses}"
        runtime = runtime or FakeRuntime(
            clock,
            capacity_bytes=capacity_bytes,
            default_size_bytes=default_size_bytes,
            loading_concurrency=loading_concurrency,
            random=Random(self.rng.getrandbits(32)),  # noqa: S311 - a simulation
            script=lambda _: _script(default_size_bytes, load_ms),
            predicts=lambda size: size,
        )

        async def serve(model: ModelId, payload: object) -> object:
            return await (infer or infer_after())(runtime, model, payload)

        dataplane = SimulatedDataPlane(
            instance=instance,
            address=address,
            network=self.network,
            infer=serve,
            now_ms=clock.now_ms,
            rng=Random(self.rng.getrandbits(32)),  # noqa: S311 - a simulation
        )

        def crashed(task: str, error: BaseException) -> None:
            if self.keeps(error):
                self.crashes.append(f"{name}: {task}: {error!r}")

        runtime.crashes = lambda: dataplane.runtime_link(up=False)
        plane = ControlPlane(
            identity=InstanceIdentity(instance, address, labels=labels, zone=zone, location=location),
            keys=KEYS,
            store=store or self.store,
            runtime=runtime,
            peers=FakePeers(self, instance),
            dataplane=dataplane,
            clock=clock,
            rng=Random(self.rng.getrandbits(32)),  # noqa: S311 - a simulation
            limits=limits or ControlLimits(),
            crashed=crashed,
        )

        def record(event: Event) -> None:
            if self.keep_story:
                self.story.append(replace(event, time_ms=event.time_ms - clock.skew_ms))
            for watcher in self.watchers:
                watcher(event)

        plane.journal.subscribe(record)
        dataplane.listen(plane.receive)
        dataplane.start()
        models = Models(plane)
        simulated = SimulatedInstance(
            plane, dataplane, runtime, models, VModelCalls(plane, models), Admin(plane), Splits(plane, models), clock
        )
        self.instances[instance] = simulated
        self.prepare(simulated)
        await plane.start()
        plane.open()
        return simulated

    def note(self, text: str) -> None:
        """Write a line of the test's own into the story."""
        now_ms = VirtualClock().now_ms()
        self.story.append(Event(now_ms, InstanceId("-"), ModelId(""), text, "", ""))

    async def crash(self, name: str) -> None:
        """An instance dies without a word; its lease ends by itself."""
        instance = self.instances.pop(InstanceId(name))
        instance.dataplane.close()
        await instance.plane.tasks.close()
        instance.runtime.crash()

    async def leave(self, name: str, *, timeout_ms: int = 20_000) -> Drained:
        """An instance ends as on SIGTERM: it moves what is used, leaves, and finishes what runs."""
        instance = self.instances[InstanceId(name)]
        drained = await instance.plane.drain(timeout_ms)
        with suppress(StoreError):
            await instance.plane.leave()
        await asyncio.sleep(0.1)
        if self.instances.pop(InstanceId(name), None) is None:
            return drained  # it died meanwhile
        instance.dataplane.drain()
        await asyncio.sleep(0.1)
        with suppress(StoreError):
            await instance.plane.stop()
        instance.dataplane.close()
        instance.runtime.crash()
        return drained

    async def stop(self) -> None:
        """End everything."""
        for instance in self.instances.values():
            await instance.plane.tasks.close()
            instance.dataplane.close()
        await self.store.close()

    async def call(
        self,
        model: str,
        *,
        via: str,
        payload: object = None,
        vmodel: bool = False,
        timeout_ms: int | None = 60_000,
        priority: Priority = Priority.NORMAL,
    ) -> Answer:
        """A client's call, entering at `via`; `vmodel`: the id is a vmodel's."""
        dataplane = self.instances[InstanceId(via)].dataplane
        return await dataplane.call(ModelId(model), payload, vmodel=vmodel, timeout_ms=timeout_ms, priority=priority)

    def holders(self, model: str) -> list[InstanceId]:
        """Instances whose copy of the model is ready."""
        return [
            name
            for name, instance in self.instances.items()
            if instance.plane.cache.states().get(ModelId(model)) in {CopyState.READY, CopyState.SIZING}
        ]

    async def check(self) -> None:
        """Raise AssertionError if an invariant of the cluster is broken.

        Memory balances; no runtime holds more than it has; at most one load per model and instance; no
        background task crashed.
        """
        assert not self.crashes, self.crashes
        for name, instance in self.instances.items():
            instance.plane.cache.ledger.check()
            ledger = instance.plane.cache.ledger
            assert not ledger.forced(), (name, ledger.held, ledger.capacity)
            assert instance.runtime.used_bytes() <= instance.runtime.capacity_bytes, name

    async def settled(self, *, within_ms: int = 20_000) -> None:
        """Wait until every key under `copies/` has its copy and nothing is in transition, then check that."""
        for _ in range(within_ms // 50):
            problems = await self._unsettled()
            if not problems:
                await self.check()
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"not settled after {within_ms} ms: {problems}")

    async def _unsettled(self) -> list[str]:
        problems = []
        try:
            listing = await self.store.range(KEYS.copies)
        except StoreError as error:
            return [f"the store is away: {error}"]
        keys: dict[tuple[ModelId, InstanceId], CopyRecord] = {}
        for item in listing.items:
            parsed = KEYS.parse(item.key)
            assert isinstance(parsed, CopyKey)
            keys[parsed.model, parsed.instance] = CopyRecord.decode(item.value)
        for (model, name), record in keys.items():
            holder = self.instances.get(name)
            copy = holder.plane.cache.copy(model) if holder is not None else None
            if copy is None or copy.load_id != record.load_id:
                problems.append(f"key of {model} at {name} has no copy")
        for name, instance in self.instances.items():
            for model, state in instance.plane.cache.states().items():
                if state is not CopyState.READY:
                    problems.append(f"{model} is {state.value} at {name}")
                elif (model, name) not in keys:
                    problems.append(f"copy of {model} at {name} has no key")
        return problems


def _in_later_words(answer: peer_pb2.EnsureLoadedResponse) -> peer_pb2.EnsureLoadedResponse:
    """A refusal in a state and for a reason that this version does not know."""
    if answer.state != peer_pb2.EnsureLoadedResponse.REFUSED:
        return answer
    answer.refusal = FUTURE_WORD
    return peer_pb2.EnsureLoadedResponse.FromString(answer.SerializeToString() + b"\x08\x63")  # state = 99


async def register(
    instance: SimulatedInstance, model: str, *, path: str = "", kind: str = "fake", load: bool = False
) -> None:
    """Register a model through an instance's management service."""
    request = model_mesh_pb2.RegisterModelRequest(
        modelId=model, modelInfo=model_mesh_pb2.ModelInfo(type=kind, path=path), loadNow=load, sync=load
    )
    call = Call(Token(0), "mmesh.ModelMesh/registerModel", {}, send=lambda _: None)
    await instance.models.register(call, request)


async def unregister(instance: SimulatedInstance, model: str) -> None:
    """Unregister a model through an instance's management service."""
    call = Call(Token(0), "mmesh.ModelMesh/unregisterModel", {}, send=lambda _: None)
    await instance.models.unregister(call, model_mesh_pb2.UnregisterModelRequest(modelId=model))


async def ensure_loaded(instance: SimulatedInstance, model: str, *, sync: bool = False) -> str:
    """Make sure of a copy through an instance's management service; returns the status it tells."""
    call = Call(Token(0), "mmesh.ModelMesh/ensureLoaded", {}, send=lambda _: None)
    request = model_mesh_pb2.EnsureLoadedRequest(modelId=model, sync=sync)
    info = await instance.models.ensure_loaded(call, request)
    return model_mesh_pb2.ModelStatusInfo.ModelStatus.Name(info.status)


async def set_vmodel(instance: SimulatedInstance, vmodel: str, target: str) -> None:
    """Point a vmodel at a model, which is loaded first."""
    call = Call(Token(0), "mmesh.ModelMesh/setVModel", {}, send=lambda _: None)
    request = model_mesh_pb2.SetVModelRequest(vModelId=vmodel, targetModelId=target)
    unary = instance.vmodels.methods()["mmesh.ModelMesh/setVModel"].unary
    assert unary is not None
    await unary(call, request)


async def set_split(
    instance: SimulatedInstance, vmodel: str, shares: Mapping[str, int], *, force: bool = False
) -> None:
    """Give models a share of a vmodel's calls, in percent; they are loaded first unless `force`."""
    split = [admin_pb2.Share(model_id=model, percent=percent) for model, percent in shares.items()]
    request = admin_pb2.SetSplitRequest(vmodel_id=vmodel, split=split, force=force)
    await instance.splits.set_split(Call(Token(0), "", {}, send=lambda _: None), request)


async def set_rollout(
    instance: SimulatedInstance,
    vmodel: str,
    model: str,
    steps: Sequence[int] = (),
    *,
    minimum_calls: int = 20,
    minimum_ms: int = 20_000,
    error_hundredths: int = 100,
    slower_percent: int = 50,
) -> admin_pb2.VModel:
    """Roll a model out; "": end what runs."""
    rollouts = Rollouts(instance.plane, Labels(instance.plane, instance.models), instance.splits)
    plan = admin_pb2.Rollout(
        model_id=model,
        steps=steps,
        minimum_calls=minimum_calls,
        minimum_ms=minimum_ms,
        error_hundredths=error_hundredths,
        slower_percent=slower_percent,
    )
    request = admin_pb2.SetRolloutRequest(vmodel_id=vmodel, plan=plan if model else None)
    return await rollouts.set_rollout(Call(Token(0), "", {}, send=lambda _: None), request)


def _script(size_bytes: int, load_ms: int) -> ModelScript:
    return ModelScript(size_bytes=size_bytes, load_ms=load_ms, unload_ms=5)


def infer_after(wait_ms: Callable[[], int] = lambda: 1, *, with_path: bool = False) -> "RuntimeInfer":
    """Inference that takes a time and answers with the model, the payload and, if told, the path it was loaded from."""

    async def infer(runtime: FakeRuntime, model: ModelId, payload: object) -> object:
        if runtime.down:
            raise RuntimeCallError(Status.UNAVAILABLE, "the runtime is down", unprocessed=True)
        life = runtime.life
        await asyncio.sleep(wait_ms() / 1000)
        await runtime.turn()
        if runtime.life != life:
            raise RuntimeCallError(Status.UNAVAILABLE, "the runtime died", lost=True)
        if model not in runtime.loaded:
            raise RuntimeCallError(Status.NOT_FOUND, f"model {model} is not loaded")
        return (model, payload, runtime.paths[model]) if with_path else (model, payload)

    return infer
