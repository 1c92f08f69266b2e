"""`modelmesh controller`: resources of a Kubernetes cluster become pods and models."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def controller(
    namespace: Annotated[
        str,
        typer.Option(envvar="NAMESPACE", help="The controller's own; unset: that of its pod, or model-serving."),
    ] = "",
    namespace_scope: Annotated[
        bool, typer.Option(envvar="NAMESPACE_SCOPE", help="Serve the own namespace only, and read no other.")
    ] = False,
    etcd_secret: Annotated[
        str, typer.Option(envvar="ETCD_SECRET_NAME", help="Secret with the address of the etcd of meshes.")
    ] = "model-serving-etcd",  # noqa: S107 - the name of a Secret
    pod_name: Annotated[
        str, typer.Option(envvar="POD_NAME", help="Name of the pod: the identity in the election.")
    ] = "",
    deployment: Annotated[
        str,
        typer.Option(envvar="CONTROLLER_DEPLOYMENT", help="Deployment of the controller; unset: from the pod's name."),
    ] = "",
    inference_services: Annotated[
        str, typer.Option(envvar="ENABLE_ISVC_WATCH", help="false: InferenceServices are left alone.")
    ] = "",
    cluster_runtimes: Annotated[
        str, typer.Option(envvar="ENABLE_CSR_WATCH", help="false: ClusterServingRuntimes are left alone.")
    ] = "",
    leader_election: Annotated[
        bool,
        typer.Option(
            "--enable-leader-election/--no-leader-election", help="Work only while this process holds the Lease."
        ),
    ] = True,
    lease_duration: Annotated[int, typer.Option("--leader-elect-lease-duration-sec", help="Seconds.")] = 15,
    renew_deadline: Annotated[int, typer.Option("--leader-elect-lease-renew-deadline-sec", help="Seconds.")] = 10,
    retry_period: Annotated[int, typer.Option("--leader-elect-retry-period-sec", help="Seconds.")] = 2,
    metrics_address: Annotated[
        str, typer.Option("--metrics-addr", help="HOST:PORT of /metrics; without a host: all interfaces.")
    ] = ":8080",
    health_address: Annotated[
        str, typer.Option("--health-probe-bind-address", help="HOST:PORT of /healthz and /readyz.")
    ] = ":8081",
    scaler_address: Annotated[
        str, typer.Option("--scaler-addr", help="HOST:PORT of KEDA's external scaler; empty: there is none.")
    ] = ":9090",
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="MODELMESH_API_KEY_FILE",
            help="File with an API key or a token for meshes with access rules; it is read again for each call.",
        ),
    ] = None,
    roll: Annotated[
        bool,
        typer.Option(
            "--roll", help="Replace the pods of Deployments that another controller made, where they would differ."
        ),
    ] = False,
    server: Annotated[str, typer.Option(help="URL of the API server; unset: that of the cluster around the pod.")] = "",
    token_file: Annotated[Path | None, typer.Option(help="Bearer token, with --server.")] = None,
    ca_file: Annotated[Path | None, typer.Option(help="PEM of the API server's authority, with --server.")] = None,
) -> None:
    """Run the Kubernetes controller: serve the models that InferenceServices and Predictors of a cluster ask for.

    It reads ServingRuntimes, makes their Deployments, and keeps each namespace's mesh and the statuses as the resources
    say. Ends on SIGTERM, and hands over to another replica at once.
    """
    import random
    import socket

    import structlog

    from modelmesh.adapters.clock import SystemClock
    from modelmesh.adapters.telemetry.logs import configure_logs
    from modelmesh.kubernetes.adapters.api import Access, in_cluster
    from modelmesh.kubernetes.loop.leader import LeaseTimes
    from modelmesh.kubernetes.settings import Settings
    from modelmesh.kubernetes.start import Program, Running

    configure_logs(form="console" if os.environ.get("DEV_MODE_LOGGING") else "json", level="INFO")
    log = structlog.get_logger("modelmesh")
    try:
        program = Program(
            access=Access(server, token_file, ca_file) if server else in_cluster(),
            settings=Settings(
                namespace=namespace or _own_namespace(),
                namespace_scope=namespace_scope,
                store_secret=etcd_secret,
                inference_services=inference_services.strip().lower() != "false",
                cluster_runtimes=cluster_runtimes.strip().lower() != "false",
                roll=roll,
            ),
            identity=pod_name or socket.gethostname(),
            elect=leader_election,
            times=LeaseTimes(lease_duration, renew_deadline, retry_period),
            metrics=_address(metrics_address, "--metrics-addr"),
            health=_address(health_address, "--health-probe-bind-address"),
            scaler=_address(scaler_address, "--scaler-addr") if scaler_address else None,
            key_file=api_key_file,
            owner_deployment=deployment or pod_name.rpartition("-")[0].rpartition("-")[0],
        )
        running = Running(program, clock=SystemClock(), rng=random.SystemRandom(), log=log.info)
        asyncio.run(_until_signalled(running.run()))
    except (OSError, ValueError) as error:
        typer.echo(f"modelmesh controller: {error}", err=True)
        raise typer.Exit(1) from error


async def _until_signalled(work: Coroutine[Any, Any, None]) -> None:
    """Run until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


def _own_namespace() -> str:
    try:
        return NAMESPACE_FILE.read_text().strip() or "model-serving"
    except OSError:
        return "model-serving"


def _address(text: str, option: str) -> tuple[str, int]:
    """HOST:PORT. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not (port.isdecimal() and port.isascii() and int(port) < 65536):
        raise ValueError(f"{option} must be HOST:PORT, is {text}")
    return host.strip("[]"), int(port)
