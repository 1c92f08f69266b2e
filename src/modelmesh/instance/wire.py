"""The composition root: builds one instance with its adapters from the settings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import SystemRandom

from structlog.contextvars import bind_contextvars

from modelmesh.adapters.clock import SystemClock
from modelmesh.adapters.credentials import KeySets
from modelmesh.adapters.dataplane.native import ListenerTls, NativeDataPlane
from modelmesh.adapters.peers import GrpcPeers, PeerCertificates
from modelmesh.adapters.runtime.candidates import RuntimeCandidates
from modelmesh.adapters.runtime.metered import MeteredRuntime
from modelmesh.adapters.runtime.reflection import RuntimeReflection
from modelmesh.adapters.store import connection_file, open_store
from modelmesh.adapters.store.metered import MeteredStore
from modelmesh.adapters.telemetry.calls import mapped
from modelmesh.adapters.telemetry.logs import JournalLog, LogLevel
from modelmesh.control.plane import ControlPlane
from modelmesh.control.settings import ControlLimits, InstanceIdentity
from modelmesh.control.view.keys import Keys
from modelmesh.instance.certificates import (
    Certificates,
    CertificateSet,
    CertificateWatch,
    Files,
    load_certificates,
)
from modelmesh.instance.live_documents import LiveDocuments, read_documents
from modelmesh.instance.observing import Observers, choose_observers, header_keys
from modelmesh.instance.settings import Settings
from modelmesh.instance.telemetry import Metrics, choose_metrics
from modelmesh.management.access import Access
from modelmesh.management.services import serve
from modelmesh.policy.copies import CopiesLimits
from modelmesh.ports import Store
from modelmesh.values.dataplane import DataPlaneEvent
from modelmesh.values.ids import InstanceId


@dataclass(frozen=True, slots=True)
class Wired:
    """An instance, put together and bound, not started."""

    plane: ControlPlane
    dataplane: NativeDataPlane
    store: Store
    runtime: RuntimeCandidates
    reflection: RuntimeReflection
    peers: GrpcPeers
    documents: LiveDocuments
    metrics: Metrics
    observers: Observers

    async def close(self) -> None:
        """Release everything, in the reverse order."""
        await self.observers.stop(self.dataplane)
        await self.plane.tasks.close()
        await self.metrics.stop()
        self.dataplane.close()
        await self.peers.close()
        await self.reflection.close()
        await self.runtime.close()
        await self.store.close()


async def wire(settings: Settings, level: LogLevel) -> Wired:
    """Put an instance together and bind its ports; `level` follows the live setting.

    Raises:
        SettingsError: A certificate or a document cannot be used.
        StoreError: The store cannot be reached.
        OSError: A port is in use; the message names it.
    """
    certificates = load_certificates(settings)
    metrics = choose_metrics(settings)
    store = await open_store(settings.kv_store)
    instance = InstanceId(settings.resolved_instance_id())
    host = settings.listen_host
    dataplane = NativeDataPlane(
        instance=instance,
        runtime=settings.runtime_serving_endpoint() or settings.runtime_endpoints()[0],
        serving=f"{host}:{settings.serving_port}" if settings.serving_port else None,
        peer=f"{host}:{settings.resolved_peer_port()}",
        management=f"{host}:{settings.management_port}" if settings.management_port else None,
        rest=f"{host}:{settings.resolved_rest_port()}" if settings.resolved_rest_port() else None,
        rest_origins=settings.rest_origins,
        console=settings.console,
        serving_tls=_listener(certificates.serving) if certificates else None,
        peer_tls=_listener(certificates.peer) if certificates else None,
        max_message_bytes=settings.max_message_bytes,
        max_header_bytes=settings.max_header_bytes,
        max_connection_age_ms=_ms(settings.max_connection_age_s),
        max_connection_age_grace_ms=_ms(settings.max_connection_age_grace_s),
        memory_max=settings.connection_memory_bytes,
        multi_parallelism=settings.multi_parallelism,
        metrics=metrics.choice.kind != "disabled",
        metrics_per_model=metrics.choice.per_model,
        metrics_full_names=metrics.choice.full_names,
        metrics_models_max=metrics.choice.models_max,
    )
    try:
        return await _connect(settings, level, instance, store, dataplane, metrics, certificates)
    except BaseException:
        dataplane.close()
        await store.close()
        raise


async def _connect(
    settings: Settings,
    level: LogLevel,
    instance: InstanceId,
    store: Store,
    dataplane: NativeDataPlane,
    metrics: Metrics,
    certificates: CertificateSet | None,
) -> Wired:
    log = JournalLog(instance, level)
    keys = header_keys(settings.log_request_headers)
    reflection = RuntimeReflection(settings.runtime_serving_endpoint() or settings.runtime_endpoints()[0])

    async def found(target: str) -> None:
        if settings.runtime_serving_endpoint() is None:
            dataplane.set_runtime(target)
            await reflection.move(target)

    runtime = RuntimeCandidates(settings.runtime_endpoints(), found, calls_target=settings.runtime_serving_endpoint())
    peers = GrpcPeers(_caller(certificates.peer) if certificates else None)
    observers = choose_observers(settings, instance, metrics.meter)
    planes: list[ControlPlane] = []

    def receive(events: Sequence[DataPlaneEvent]) -> None:
        planes[0].receive(events)
        try:
            observers.receive(events)
        except Exception as error:  # noqa: BLE001 - a failing observer must not affect calls
            log.crashed("observers", error)

    dataplane.listen(receive)
    if settings.access_path is not None:
        dataplane.set_access(())  # before the first call is possible; the rules follow
    dataplane.start()
    plane = ControlPlane(
        identity=InstanceIdentity(
            instance=instance,
            address=f"{settings.resolved_address()}:{dataplane.peer_port}",
            tls_name=certificates.peer_name(settings.resolved_address()) if certificates else "",
            labels=settings.labels,
            zone=settings.zone,
            location=settings.resolved_location(),
            version=settings.resolved_version(),
        ),
        keys=Keys(root="", prefix=settings.kv_prefix, service=settings.service_name),
        store=MeteredStore(store, metrics.meter),
        runtime=MeteredRuntime(runtime, metrics.meter),
        peers=peers,
        dataplane=dataplane,
        clock=SystemClock(),
        rng=SystemRandom(),
        limits=ControlLimits(
            failure_expiry_ms=settings.load_failure_expiry_ms,
            default_vmodel_owner=settings.default_vmodel_owner,
            copies=CopiesLimits(rate=settings.scaleup_rpm_threshold),
            bandwidth_percent=settings.scaleup_bandwidth_percent,
            eviction=settings.eviction,
            in_flight_max=settings.max_in_flight_per_copy,
            read_only=settings.read_only,
            bootstrap_ms=settings.bootstrap_ms if settings.failfast_upgrade else 0,
        ),
        crashed=log.crashed,
        forgotten=metrics.forget,
    )
    planes.append(plane)
    plane.journal.subscribe(log)
    access = Access(dataplane=dataplane, clock=plane.clock, tasks=plane.tasks, keys=KeySets(plane.clock).keys)
    documents = read_documents(settings, plane, access)
    serve(
        plane,
        access=access,
        ready=lambda: plane.ready,
        ask_runtime=reflection.ask,
        failed=log.crashed,
        entered=(lambda headers: bind_contextvars(**mapped(headers, keys))) if keys else lambda _: None,
        apart=bool(settings.management_port),
    )
    await metrics.start(settings, plane, dataplane)
    observers.start(plane, dataplane, level)
    _watch_etcd(settings.kv_store, store, plane)
    if certificates is not None:
        _watch_certificates(settings, certificates.files, plane, dataplane, peers)
    return Wired(
        plane,
        dataplane,
        store,
        runtime,
        reflection,
        peers,
        documents,
        metrics,
        observers,
    )


def _watch_certificates(
    settings: Settings, seen: Files, plane: ControlPlane, dataplane: NativeDataPlane, peers: GrpcPeers
) -> None:
    """New certificates serve new connections; those that are open continue."""

    def changed(certificates: CertificateSet) -> None:
        name = certificates.peer_name(settings.resolved_address())
        dataplane.set_tls(_listener(certificates.serving), _listener(certificates.peer))
        if (caller := _caller(certificates.peer)) is not None:
            peers.set_certificates(caller)
        plane.identity = replace(plane.identity, tls_name=name)
        plane.journal.note("certificates_changed", detail=f"for {', '.join(certificates.names) or 'no name'}")

    watch = CertificateWatch(
        settings,
        seen,
        changed=changed,
        refused=lambda why: plane.journal.note("certificates_refused", detail=why),
    )
    plane.tasks.start(watch.run(), "watch the certificates")


def _watch_etcd(kv_store: str, store: Store, plane: ControlPlane) -> None:
    """A renewed password, or renewed certificates, take hold while the instance runs."""
    file = connection_file(
        kv_store,
        store,
        changed=lambda: plane.journal.note("store_connection_changed"),
        refused=lambda why: plane.journal.note("store_connection_refused", detail=why),
    )
    if file is not None:
        plane.tasks.start(file.run(), "watch the connection file of etcd")


def _caller(certificates: Certificates | None) -> PeerCertificates | None:
    if certificates is None:
        return None
    return PeerCertificates(certificates.trusted, certificates.private_key, certificates.certificate_chain)


def _listener(certificates: Certificates | None) -> ListenerTls | None:
    if certificates is None:
        return None
    return ListenerTls(
        certificate_chain=certificates.certificate_chain,
        private_key=certificates.private_key,
        trusted=certificates.trusted,
        client_auth=certificates.client_auth,
    )


def _ms(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * 1000
