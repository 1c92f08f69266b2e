"""One container of a pod: it is started, probed, stopped and started again."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from modelmesh.testing.kubelet.fields import expand, resource_field
from modelmesh.testing.kubelet.files import PodFiles
from modelmesh.testing.kubelet.images import Images, NotYetError
from modelmesh.testing.kubelet.probes import Series, attempt
from modelmesh.testing.kubelet.sandbox import Made, Network, mount_script
from modelmesh.testing.kubelet.shell import run
from modelmesh.testing.kubelet.status import ContainerState

Object = dict[str, Any]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
STEADY_AFTER_S = 60.0
"""A container that ran as long is started again after the first pause."""

WAITS_S = 1.0
"""Until a container that lacks something is tried again."""

LEAST_END_S = 2.0
"""After its hook a container has at least as long to end, as at a kubelet."""


class PodPart(Protocol):
    """What a container needs of its pod."""

    images: Images
    variables: Mapping[str, str]
    files: PodFiles
    network: Network
    folder: Path
    volumes: dict[str, Path]
    changed: asyncio.Event

    @property
    def pod(self) -> Object:
        """The pod as it is now."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether it is to end."""
        ...

    @property
    def grace_s(self) -> float:
        """How long it may take to end."""
        ...

    def field(self, path: str) -> str:
        """A field of the downward API."""
        ...


@dataclass
class Container:
    """A container, by its spec."""

    of: PodPart
    spec: Object
    state: ContainerState = field(init=False)
    _process: asyncio.subprocess.Process | None = None
    _environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = ContainerState(self.spec["name"], self.spec["image"])

    @property
    def log(self) -> Path:
        """The file of its output."""
        return self.of.folder / f"{self.spec['name']}.log"

    async def live(self, *, once: bool = False) -> int:
        """Run it, again and again as the pod's restart policy says; returns its last exit code.

        Args:
            once: Whether it is to succeed once, as an init container.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await self._start()
            except NotYetError as problem:
                self._became(self.state.waits("CreateContainerConfigError", str(problem)))
                await asyncio.sleep(WAITS_S)
                continue
            began = time.monotonic()
            code = await self._run()
            self._became(self.state.ended(code))
            policy = self.of.pod["spec"].get("restartPolicy") or "Always"
            done = policy == "Never" or (code == 0 and (once or policy == "OnFailure"))
            if done or self.of.stopping:
                return code
            pause_s = FIRST_PAUSE_S if time.monotonic() - began > STEADY_AFTER_S else pause_s
            self._became(self.state.waits("CrashLoopBackOff", f"it ended with {code}"))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._became(self.state.again())

    async def stop(self) -> None:
        """Run its hook, send SIGTERM, and at the end of the grace period SIGKILL to all that is left."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        late = time.monotonic() + self.of.grace_s
        if hook := (self.spec.get("lifecycle") or {}).get("preStop"):
            await attempt(hook, self.spec, self.of.network.address, self._execute, self.of.grace_s)
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), max(LEAST_END_S, late - time.monotonic()))
        self.kill()
        await process.wait()

    def kill(self) -> None:
        """End all its processes at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _became(self, state: ContainerState) -> None:
        if state != self.state:
            self.state = state
            self.of.changed.set()

    async def _start(self) -> None:
        image = self.of.images.find(self.spec["image"])
        environment = await self._variables(
            {
                "PATH": PATH,
                "HOME": "/root",
                "HOSTNAME": self.of.field("metadata.name"),
                **self.of.variables,
                **image.environment,
            }
        )
        own_command, own_arguments = self.spec.get("command"), self.spec.get("args")
        words = [*(own_command or image.entrypoint)]
        # As of an image: a command of the container's own comes without the image's arguments.
        words += own_arguments or ([] if own_command else image.command)
        mounts = [
            (
                self.of.volumes[mount["name"]]
                / (expand(mount.get("subPathExpr") or "", environment) or mount.get("subPath") or ""),
                mount,
            )
            for mount in self.spec.get("volumeMounts") or []
        ]
        security = self.spec.get("securityContext") or {}
        script = mount_script(
            self.of.folder / "roots" / self.spec["name"],
            image.layers,
            mounts,
            shared=image.shared,
            folder=self.spec.get("workingDir") or image.folder,
            read_only=bool(security.get("readOnlyRootFilesystem")),
        )
        self._environment = environment
        made = Made()
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *("nsenter", "-t", str(self.of.network.pid), "-n", "unshare", "-m", "--propagation", "private"),
                *("sh", "-ec", script, "sh", *(expand(word, environment) for word in words)),
                env=environment,
                stdin=made.given,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        await made.wait()
        self._became(self.state.runs(started="startupProbe" not in self.spec, ready="readinessProbe" not in self.spec))

    async def _run(self) -> int:
        """Probe it until it ends; returns its exit code."""
        assert self._process is not None
        probes = [
            asyncio.create_task(self._probe(kind, self.spec[f"{kind}Probe"]))
            for kind in ("startup", "readiness", "liveness")
            if self.spec.get(f"{kind}Probe")
        ]
        try:
            return await self._process.wait()
        finally:
            for probe in probes:
                probe.cancel()
            self.kill()

    async def _probe(self, kind: str, probe: Object) -> None:
        await asyncio.sleep(probe.get("initialDelaySeconds") or 0)
        series = Series()
        while True:
            if kind == "startup" or self.state.started:
                ok = await attempt(
                    probe, self.spec, self.of.network.address, self._execute, probe.get("timeoutSeconds") or 1
                )
                series = series.then(ok, probe)
                if kind == "readiness" and series.verdict is not None:
                    self._became(self.state.is_ready(series.verdict))
                elif kind == "startup" and series.verdict:
                    self._became(self.state.has_started(ready="readinessProbe" not in self.spec))
                    return
                elif series.verdict is False:
                    await self.stop()
                    return
            await asyncio.sleep(probe.get("periodSeconds") or 10)

    async def _execute(self, command: list[str]) -> int:
        """Run a command in the container; returns its exit code."""
        assert self._process is not None
        inside = ("nsenter", "-t", str(self._process.pid), "-m", "-n", "-r", "-w")
        code, printed = await run(*inside, *command, timeout_s=self.of.grace_s, environment=self._environment)
        if code:
            with self.log.open("a") as output:
                output.write(f"{' '.join(command)} ended with {code}: {printed}\n")
        return code

    async def _variables(self, environment: dict[str, str]) -> dict[str, str]:
        for source in self.spec.get("envFrom") or []:
            kind = "configMap" if "configMapRef" in source else "secret"
            named = source[f"{kind}Ref"]
            found = await self.of.files.data(kind, named["name"], optional=named.get("optional", False))
            environment |= {(source.get("prefix") or "") + key: content.decode() for key, content in found.items()}
        for variable in self.spec.get("env") or []:
            if "valueFrom" in variable:
                value = await self._value(variable["valueFrom"])
            else:
                value = expand(variable.get("value") or "", environment)
            if value is not None:
                environment[variable["name"]] = value
        return environment

    async def _value(self, source: Object) -> str | None:
        if "fieldRef" in source:
            return self.of.field(source["fieldRef"]["fieldPath"])
        if "resourceFieldRef" in source:
            return resource_field(self.of.pod, source["resourceFieldRef"], self.spec["name"])
        kind = "configMap" if "configMapKeyRef" in source else "secret"
        named = source[f"{kind}KeyRef"]
        data = await self.of.files.data(kind, named["name"], optional=named.get("optional", False))
        if named["key"] not in data and not named.get("optional"):
            raise NotYetError(f"{kind} {named['name']} has no key {named['key']}")
        return data[named["key"]].decode() if named["key"] in data else None
