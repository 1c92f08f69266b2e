"""`modelmesh up -f`: the runtimes and models of manifests on this machine."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from modelmesh.cli.greeting import greet
from modelmesh.cli.text import say

if TYPE_CHECKING:
    from modelmesh.declared import Declared, Runtime, Wanted
    from modelmesh.instance.local_cluster import LocalCluster
    from modelmesh.instance.local_runtimes import Limits, Parts


class ManifestSource:
    """What `up` serves when it is given manifests, and what it does when they change.

    Args:
        paths: Of files and folders.
        storage_configs: Folder of storage configurations, for models that name a storage key.
        trust: Patterns of locations whose files may run code in the built-in runtime.

    Raises:
        typer.Exit: A manifest has a problem, which is printed.
        LocalRuntimeError: A runtime cannot be started here.
    """

    def __init__(self, paths: Sequence[Path], storage_configs: Path | None, trust: Sequence[str] = ()) -> None:
        from modelmesh.cli.manifests import fingerprint, read_manifests, show_problems
        from modelmesh.instance.local_runtimes import shipped_runtimes, wanted_runtimes

        self._paths = paths
        self._configs = None if storage_configs is None else storage_configs.absolute()
        self._trust = trust
        self._known = shipped_runtimes()
        self._seen = fingerprint(paths)
        self._declared = read_manifests(paths, known=self._known)
        show_problems(self._declared)
        if self._declared.problems:
            raise typer.Exit(1)
        self.folder = _folder(paths)
        self.runtimes: list[Runtime] = wanted_runtimes(self._declared, self._known)

    def cluster(self, instances: int, port: int, limits: "Limits", state: Path | None) -> "LocalCluster":
        """The cluster that serves them: for each runtime its `replicas`, else `instances`.

        Raises:
            LocalRuntimeError: A runtime has no command here.
        """
        from modelmesh.instance.local_cluster import Beside, LocalCluster
        from modelmesh.instance.local_runtimes import constraints

        ours: list[Runtime] = []
        for runtime in self.runtimes:
            ours += [runtime] * (runtime.body.get("replicas") or instances)
        if not ours:
            say("the manifests declare no model and no runtime", error=True)
            raise typer.Exit(1)
        places: dict[int, Parts] = {}
        made = LocalCluster(
            len(ours), lambda number, listen: self._parts(number, ours, places, made, limits).runtime(listen)
        )

        def parts(number: int) -> "Parts":
            return self._parts(number, ours, places, made, limits)

        def beside(number: int) -> list[Beside]:
            server = parts(number).server
            name = ours[number - 1].adapter
            return [Beside(name.server_type, *server)] if server is not None and name is not None else []

        def own(number: int) -> dict[str, str]:
            data_port = parts(number).data_port
            labels = {"MM_LABELS": ",".join(sorted(ours[number - 1].labels))}
            return labels | ({} if data_port is None else {"INTERNAL_SERVING_GRPC_PORT": str(data_port)})

        made.first_port = port
        made.folder = state
        made.environment = {"MM_TYPE_CONSTRAINTS": json.dumps(constraints(self.runtimes))} | names_in_messages(
            os.environ
        )
        made.own_environment = own
        made.runtime_environment = lambda number: parts(number).runtime_environment
        made.beside = beside
        made.progress = lambda text: say(f"{text} …", error=True)
        return made

    def _parts(
        self, number: int, ours: "list[Runtime]", places: "dict[int, Parts]", cluster: "LocalCluster", limits: "Limits"
    ) -> "Parts":
        """Of one instance; made once, when the cluster has its folder."""
        from modelmesh.instance.local_cluster import free_port
        from modelmesh.instance.local_runtimes import Place, parts

        if number not in places:
            assert cluster.folder is not None
            folder = cluster.folder.absolute() / f"models-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            place = Place(folder, free_port(), free_port(), free_port())
            places[number] = parts(
                ours[number - 1],
                place,
                limits,
                models=self.folder,
                storage_configs=self._configs,
                trust=self._trust,
                environment=os.environ,
            )
        return places[number]

    async def start(self, cluster: "LocalCluster") -> None:
        """Start, and set the models."""
        await cluster.start()
        cluster.progress(f"setting {len(self._declared.wanted)} models of {', '.join(map(str, self._paths))} …")
        await asyncio.to_thread(self._apply, cluster, self._declared)

    def look(self, cluster: "LocalCluster") -> None:
        """Set models again if the manifests have changed; what prevents it is printed, and nothing is changed."""
        from modelmesh.cli.manifests import fingerprint, read_manifests
        from modelmesh.instance.local_runtimes import LocalRuntimeError, wanted_runtimes

        now = fingerprint(self._paths)
        if now == self._seen:
            return
        self._seen = now
        declared = read_manifests(self._paths, known=self._known)
        for problem in declared.problems:
            cluster.progress(f"error: {problem}")
        if declared.problems:
            return
        try:
            runtimes = wanted_runtimes(declared, self._known)
        except LocalRuntimeError as error:
            cluster.progress(f"error: {error}")
            return
        if new := [runtime.name for runtime in runtimes if runtime not in self.runtimes]:
            cluster.progress(f"{', '.join(new)} would be started, or restarted, by a new `modelmesh up`")
        self._declared = declared
        self._apply(cluster, declared)

    def _apply(self, cluster: "LocalCluster", declared: "Declared") -> None:
        from modelmesh.cli.apply import enact, standing
        from modelmesh.cli.client import connect
        from modelmesh.declared import Step, plan
        from modelmesh.instance.local_runtimes import local_path

        def path(wanted: "Wanted") -> str:
            return local_path(wanted, self.folder)

        with connect(cluster.instances[0].endpoint) as client:
            found = plan(declared.wanted, standing(client), prune=True)
            for problem in found.problems:
                cluster.progress(f"{'error' if problem.fatal else 'note'}: {problem}")
            for name, message in enact(client, found, path_of=path):
                cluster.progress(f"error: {name}: {message}")
            for change in found.changes:
                if change.step is not Step.KEEP:
                    cluster.progress(f"{change.step.value} {change.name}")

    def explain(self, cluster: "LocalCluster") -> None:
        """Where everything is, and how to call it."""
        names = [runtime.name for runtime in self.runtimes for _ in range(runtime.body.get("replicas") or 1)]
        greet(
            cluster,
            ["modelmesh vmodels list"],
            header="mm-vmodel-id",
            name=self._declared.wanted[0].name if self._declared.wanted else None,
            notes=names if len(names) == len(cluster.instances) else (),
        )


def _folder(paths: Sequence[Path]) -> Path:
    """What models on this machine may lie in: the folder that holds the manifests."""
    folders = [path.absolute() if path.is_dir() else path.absolute().parent for path in paths]
    common = Path(os.path.commonpath(folders))
    if common == Path("/"):
        say("the manifests lie in no common folder; put them, and the models on this machine, below one", error=True)
        raise typer.Exit(1)
    return common


def names_in_messages(environment: Mapping[str, str]) -> dict[str, str]:
    """The setting with which a name in an inference request is that of an InferenceService; nothing if the user gave another."""
    if "MM_DATAPLANE_CONFIG" in environment or "MM_DATAPLANE_CONFIG_PATH" in environment:
        return {}
    methods = {
        "inference.GRPCInferenceService/ModelInfer": {"idExtractionPath": [1], "vModelId": True, "headerFirst": True}
    }
    return {"MM_DATAPLANE_CONFIG": json.dumps({"rpcConfigs": methods, "allowOtherRpcs": True})}
