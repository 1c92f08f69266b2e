"""Everything that takes part in a run, all there all the time: instances, runtimes, contenders, a second build."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from contenders import Contender, running
from fleet import BenchmarkError, Process, channel, holders, keep_alone, register, say, start_instance, start_runtime

from modelmesh.testing.certificates import Authority
from modelmesh.testing.etcd import running_etcd

MODELS = 100
SLOW_LOAD_MS = 1500
"""Of the single instance's runtime: loads that wait for one another outlast an open loop."""


@dataclass
class Stage:
    """All processes, and which model is where."""

    instances: list[Process] = field(default_factory=list)
    """Three of one cluster, with MODELS models."""
    runtimes: list[Process] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    """`models[i]` is loaded at `instances[i]` and nowhere else."""
    secured: list[Process] = field(default_factory=list)
    """Two of a cluster with TLS."""
    secured_runtimes: list[Process] = field(default_factory=list)
    secured_models: list[str] = field(default_factory=list)
    contenders: dict[str, Contender] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Contenders that are not there, and why."""
    pair: dict[str, tuple[Process, Process]] = field(default_factory=dict)
    """Instance and runtime of this commit ("now") and of the one that it is compared with ("base"); both started alike, and used for nothing else."""
    etcd_pid: int = 0
    storms: int = 0
    colds: int = 0
    single: Process = field(init=False)
    """Alone, with a store of its own; its runtime loads slowly, and models `bad…` not at all."""
    single_runtime: Process = field(init=False)

    @property
    def front(self) -> Process:
        """The instance that is called."""
        return self.instances[0]

    def leave_out(self, path: str, error: BenchmarkError) -> None:
        """A contender failed: the others go on. Raises the error if it is none."""
        if path not in self.contenders:
            raise error
        del self.contenders[path]
        self.missing[path] = str(error)
        say(f"*** {path.upper()} IS NOT MEASURED ANY MORE: {error} ***")

    def check_copies(self) -> None:
        """Raise BenchmarkError if the models are no longer where they were."""
        for instance, model in zip(self.instances, self.models, strict=True):
            found = holders(instance, model)
            if found != [instance.name]:
                raise BenchmarkError(f"{model} was loaded at {instance.name} only, and is now at {found}")


def place(instances: list[Process], count: int) -> list[str]:
    """Register m-0 … and return for each instance a model that is there alone."""
    for number in range(count):
        register(instances[number % len(instances)], f"m-{number}")
    found: dict[str, str] = {}
    for number in range(count):
        where = holders(instances[0], f"m-{number}")
        if len(where) != 1:
            raise BenchmarkError(f"m-{number} was to be at one instance, and is at {where}")
        found.setdefault(where[0], f"m-{number}")
    if len(found) < len(instances):
        raise BenchmarkError(f"no model came to each instance alone; there were {found}")
    for model in found.values():
        keep_alone(instances[0], model)
    return [found[instance.name] for instance in instances]


def fail(instance: Process, model: str) -> None:
    """Register a model that cannot be loaded, and let the instance find that out."""
    register(instance, model, load_now=False)
    with channel(instance) as opened:
        try:
            opened.unary_unary("/bench.Echo/Call")(b"", metadata=(("mm-model-id", model),), timeout=30)
        except grpc.RpcError:
            return
    raise BenchmarkError(f"{model} was to fail, and did not")


@contextlib.contextmanager
def running_stage(base: Path | None) -> Iterator[Stage]:
    """Start everything; nothing is left when it ends. `base`: the `src` of another build."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelmesh-bench-")))
        etcd = stack.enter_context(running_etcd())
        stage = Stage(etcd_pid=etcd.pid or 0)

        def runtime(name: str, *arguments: str) -> Process:
            process = start_runtime(f"runtime-{name}", *arguments)
            stack.callback(process.stop)
            return process

        def instance(name: str, behind: Process, store: str = "", **settings: str) -> Process:
            store = store or f"etcd:{etcd.endpoint}"
            process = start_instance(f"instance-{name}", behind, store, folder, settings)
            stack.callback(process.stop)
            return process

        say("starting three instances and their models")
        for name in ("a", "b", "c"):
            stage.runtimes.append(runtime(name))
            stage.instances.append(instance(name, stage.runtimes[-1]))
        stage.models = place(stage.instances, MODELS)

        say("starting an instance alone, two with TLS, and the contenders")
        stage.single_runtime = runtime("single", "--load-ms", str(SLOW_LOAD_MS), "--fail", "bad")
        stage.single = instance("single", stage.single_runtime, f"sqlite:{folder}/single.db")
        register(stage.single)
        fail(stage.single, "bad")

        authority = Authority()
        (folder / "ca.pem").write_bytes(authority.pem)
        certificate, key = authority.issue("127.0.0.1", "localhost").write(folder / "tls")
        tls = {
            "MM_SERVICE_NAME": "bench-tls",
            "MM_TLS_KEY_CERT_PATH": str(certificate),
            "MM_TLS_PRIVATE_KEY_PATH": str(key),
            "MM_INTERNAL_TRUST_CERTS": str(folder / "ca.pem"),
        }
        for name in ("tls-a", "tls-b"):
            stage.secured_runtimes.append(runtime(name))
            secured = instance(name, stage.secured_runtimes[-1], **tls)
            secured.authority = folder / "ca.pem"
            stage.secured.append(secured)
        stage.secured_models = place(stage.secured, 8)

        stage.contenders, stage.missing = running(stack, stage.runtimes[0])
        if base is not None:
            sources: dict[str, dict[str, str]] = {"now": {}, "base": {"PYTHONPATH": str(base)}}
            for name, settings in sources.items():
                behind = runtime(name)
                stage.pair[name] = (instance(name, behind, f"sqlite:{folder}/{name}.db", **settings), behind)
                register(stage.pair[name][0])
        yield stage
