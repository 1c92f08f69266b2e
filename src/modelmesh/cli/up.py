"""`modelmesh up`: everything on one machine, with one command."""

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from modelmesh.cli.text import console, printable, say
from modelmesh.cli.up_folder import FolderSource

if TYPE_CHECKING:
    from rich.table import Table

    from modelmesh.instance.local_cluster import LocalCluster, RuntimeCommand
    from modelmesh.instance.local_runtimes import Limits

LISTEN = "{listen}"
FIRST_PORT = 8033
FIRST_REST_PORT = 8008
REFRESH_S = 1.0
PATIENCE_S = 2.0
"""A stop that takes longer prints what it waits for."""


def up(
    instances: Annotated[int, typer.Option("--instances", "-n", min=1, max=32, help="How many instances.")] = 1,
    models: Annotated[
        Path | None,
        typer.Option(
            "--models",
            help="Folder of model files (.joblib, .pkl, .pickle, .onnx, .ubj, .lgb); each is registered under its name. New,"
            " changed and removed files take effect within seconds; no call fails while a file is written over. A file of another"
            " format in its place is a new registration: calls fail for some milliseconds. Only files of this folder can be loaded if their"
            " format can run code.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65000, help="First serving port; 0: any free ports.")
    ] = FIRST_PORT,
    rest_port: Annotated[
        int | None,
        typer.Option(
            "--rest-port",
            min=0,
            max=65000,
            help="First REST port; 0: any free ports. Default: 8008 and on if they are free and --port is not given.",
        ),
    ] = None,
    capacity: Annotated[str, typer.Option("--capacity", help="Memory for models of each instance.")] = "1GiB",
    default_size: Annotated[
        str | None,
        typer.Option("--default-size", help="Size of a model whose size is not known. Default: a tenth of --capacity."),
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            "--trust",
            metavar="PATTERN",
            help="Locations, beside --models or the folder of the manifests, whose files may run code when they are loaded, like s3://bucket/folder/*;"
            " again for more.",
        ),
    ] = None,
    isolate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT",
            help="Models of this format run in a process each, in the built-in runtime; again for more.",
        ),
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PYTHON",
            help="An environment of the built-in runtime, by its Python: models of types like sklearn@NAME run in it; again for more.",
        ),
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="Folder that keeps registrations. Default: nothing is kept.")
    ] = None,
    manifests: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            "-f",
            help="File or folder of manifests (ServingRuntime, InferenceService, Predictor), instead of --models: their"
            " runtimes are started, `replicas` instances each or -n, and their models served, and followed when the files"
            " change. Models on this machine must lie below the manifests.",
            exists=True,
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            metavar="COMMAND",
            help="Command that starts a runtime of your own, instead of the built-in one, for each instance; {listen} in it is the address"
            " (unix:…) at which it must serve mmesh.ModelRuntime.",
        ),
    ] = None,
    storage_config: Annotated[
        Path | None,
        typer.Option(
            "--storage-config",
            help="Folder of storage configurations (JSON), one file for each storage key that manifests name.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Run N instances on this machine until Ctrl-C, with the built-in Python runtime, one of your own, or those of manifests. Loopback only."""
    from modelmesh.instance.local_runtimes import Limits
    from modelmesh.values.sizes import parse_size

    try:
        capacity_bytes = parse_size(capacity)
        default_bytes = parse_size(default_size) if default_size else capacity_bytes // 10
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if models is not None and not models.is_dir():
        raise typer.BadParameter(f"{models} is not a folder", param_hint="--models")
    own = None if runtime is None else _own_runtime(runtime)
    if own is not None and (models is not None or manifests):
        raise typer.BadParameter("give only one of --runtime, --models and --file", param_hint="--runtime")
    for option, values in (("--isolate", isolate), ("--environment", environment)):
        if values and (own is not None or manifests):
            raise typer.BadParameter("only the built-in runtime of --models has it", param_hint=option)
    if manifests:
        if models is not None:
            raise typer.BadParameter("give --models or --file, not both", param_hint="--file")
        limits = Limits(capacity_bytes, default_bytes)
        raise typer.Exit(
            _run_manifests(manifests, storage_config, trust or [], instances, (port, rest_port), limits, state)
        )
    if own is not None:
        source = FolderSource(None, registration="--type TYPE --path PATH")
        cluster = _cluster(instances, own, port, state)
        cluster.runtime_environment = lambda _: dict(os.environ)  # as in the shell in which the command was tried
    else:
        source = FolderSource(models)
        passed = {"--trust": trust, "--isolate": isolate, "--environment": environment}
        built_in = _built_in_runtime(models, (capacity_bytes, default_bytes), passed)
        cluster = _cluster(instances, built_in, port, state)
    cluster.first_rest_port = _first_rest_port(rest_port, port, cluster.count)
    raise typer.Exit(asyncio.run(_run(cluster, source)))


def _run_manifests(
    manifests: list[Path],
    storage_config: Path | None,
    trust: list[str],
    instances: int,
    ports: tuple[int, int | None],
    limits: "Limits",
    state: Path | None,
) -> int:
    from modelmesh.cli.up_manifests import ManifestSource
    from modelmesh.instance.local_runtimes import LocalRuntimeError

    try:
        source = ManifestSource(manifests, storage_config, trust)
        port, rest_port = ports
        cluster = source.cluster(instances, port, limits, state)
        cluster.first_rest_port = _first_rest_port(rest_port, port, cluster.count)
        return asyncio.run(_run(cluster, source))
    except LocalRuntimeError as error:
        say(f"modelmesh up: {error}", error=True)
        return 1


def _first_rest_port(chosen: int | None, port: int, count: int) -> int:
    """The first REST port, or 0: any. Who has chosen none gets the usual ones where they are to be had."""
    from modelmesh.instance.local_cluster import why_not_free

    if chosen is not None:
        return chosen
    ports = range(FIRST_REST_PORT, FIRST_REST_PORT + count)
    usual = port == FIRST_PORT and port not in ports and all(why_not_free(one) is None for one in ports)
    return FIRST_REST_PORT if usual else 0


def _own_runtime(command: str) -> "RuntimeCommand":
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise typer.BadParameter(f"{command!r} is no command: {error}", param_hint="--runtime") from error
    if not any(LISTEN in word for word in words):
        message = f"the command must hold {LISTEN}, which is replaced by the address at which the runtime must listen"
        raise typer.BadParameter(message, param_hint="--runtime")
    return lambda _, listen: [word.replace(LISTEN, listen) for word in words]


def _built_in_runtime(
    models: Path | None, limits: tuple[int, int], passed: Mapping[str, list[str] | None]
) -> "RuntimeCommand":
    """The command of the built-in runtime. `passed`: values of its options that may be given several times."""
    capacity_bytes, default_bytes = limits

    def runtime(_: int, listen: str) -> list[str]:
        command = [sys.executable, "-m", "modelmesh.cli", "runtime", "--listen", listen]
        command += ["--capacity", str(capacity_bytes), "--default-size", str(default_bytes)]
        command += [word for option, values in passed.items() for value in values or () for word in (option, value)]
        return command + (["--models", str(models.absolute())] if models is not None else [])

    return runtime


def _cluster(count: int, runtime: "RuntimeCommand", port: int, state: Path | None) -> "LocalCluster":
    from modelmesh.instance.local_cluster import LocalCluster
    from modelmesh.storage import storage_variables

    return LocalCluster(
        count,
        runtime,
        runtime_environment=lambda _: {name: os.environ[name] for name in storage_variables(os.environ)},
        first_port=port,
        folder=state,
        progress=lambda text: say(text, error=True),
    )


class Source(Protocol):
    """What is served: where its models come from."""

    async def start(self, cluster: "LocalCluster") -> None:
        """Start the cluster, and register the models."""
        ...

    def explain(self, cluster: "LocalCluster") -> None:
        """Print the addresses, and how to call a model."""
        ...

    def look(self, cluster: "LocalCluster") -> None:
        """Follow what has changed since."""
        ...


async def _run(cluster: "LocalCluster", source: Source) -> int:
    from modelmesh.instance.local_cluster import ClusterStartError
    from modelmesh.instance.local_etcd import LocalEtcdError
    from modelmesh.instance.processes import ChildEndedError
    from modelmesh.instance.state_folder import StateFolderError

    os.umask(0o077)  # registrations, logs and sockets are for this user alone, those of the children too
    stop, at_once = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        (at_once if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    failed = True
    try:
        starting = asyncio.ensure_future(source.start(cluster))
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            failed = False
            return 0
        starting.result()
        source.explain(cluster)
        await _watch(cluster, stop, source)
        failed = False
    except (ChildEndedError, ClusterStartError, LocalEtcdError, StateFolderError, OSError) as error:
        typer.echo(f"modelmesh up: {error}", err=True)
        return 1
    finally:
        cluster.progress = lambda text: say(text, error=True)
        await _stop(cluster, at_once, keep_logs=failed)
    return 0


async def _stop(cluster: "LocalCluster", at_once: asyncio.Event, *, keep_logs: bool) -> None:
    """Wait until all processes have ended; print what is waited for, and end them at once on a second signal."""
    say("stopping …", error=True)
    stopping = asyncio.ensure_future(cluster.stop(keep_logs=keep_logs))
    hurried = asyncio.ensure_future(at_once.wait())
    done, _ = await asyncio.wait((stopping, hurried), timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        say(f"waiting for calls and loads of {', '.join(cluster.running)}; Ctrl-C again ends them at once", error=True)
        await asyncio.wait((stopping, hurried), return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        await cluster.kill()
    hurried.cancel()
    await stopping


async def _watch(cluster: "LocalCluster", stop: asyncio.Event, source: Source) -> None:
    """Show what is where until a stop is asked for; without a terminal just wait."""
    from rich.live import Live

    shown = console()
    if not shown.is_terminal:
        typer.echo("running; Ctrl-C stops", err=True)
        while not stop.is_set():
            await _turn(cluster, source)
            await _pause(stop)
        return
    with Live(console=shown, auto_refresh=False, transient=True) as live:
        cluster.progress = lambda text: live.console.print(printable(text))
        while not stop.is_set():
            await _turn(cluster, source)
            live.update(await asyncio.to_thread(_picture, cluster.instances[0].endpoint), refresh=True)
            await _pause(stop)


async def _turn(cluster: "LocalCluster", source: Source) -> None:
    await cluster.mend()
    await asyncio.to_thread(source.look, cluster)


async def _pause(stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(REFRESH_S):
            await stop.wait()
    except TimeoutError:
        pass


def _picture(endpoint: str) -> "Table | str":
    import grpc

    from modelmesh.cli.client import Client
    from modelmesh.cli.instances import picture

    client = Client(endpoint, timeout_s=2.0)
    try:
        return picture(client)
    except grpc.RpcError as error:
        return f"(no answer from {endpoint}: {error.code().name})"
    finally:
        client.close()
