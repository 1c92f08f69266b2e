"""Clients of grpc-java and grpc-js, and a runtime of grpc-java, with real instances between them: `make interop`.

Not a part of `make test`: it needs Java 17, Maven and Node, and fetches their packages.
"""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.cli.client import connect
from modelmesh.instance.local_cluster import LocalCluster

HERE = Path(__file__).parent
ENVIRONMENT = {
    # Connections end while calls are made on them.
    "MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS": "2",
    "MM_SVC_GRPC_MAX_CONNECTION_AGE_GRACE_SECS": "30",
    # One copy: what enters at the other instance goes over a hop.
    "MM_SCALEUP_RPM_THRESHOLD": "2000000000",
    "MM_ACCESS_LOG": "off",
}


def build(folder: Path) -> None:
    """Fetch what both languages need, and compile."""
    for tool in ("javac", "mvn", "npm"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} was not found: Java 17, Maven and Node 20 or later are needed")
    jars, node = folder / "lib", folder / "node"
    maven = ["mvn", "-q", "-B", "-f", str(HERE / "java" / "pom.xml"), "dependency:copy-dependencies"]
    subprocess.run([*maven, f"-DoutputDirectory={jars}"], check=True)
    sources = sorted(str(path) for path in (HERE / "java" / "src").glob("*.java"))
    subprocess.run(
        ["javac", "-Xlint:all", "-Werror", "-cp", f"{jars}/*", "-d", str(folder / "classes"), *sources], check=True
    )
    node.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / "node" / name, node)
    subprocess.run(["npm", "ci", "--silent", "--prefix", str(node)], check=True)


async def run(folder: Path, seconds: int) -> list[str]:
    """Call every instance with every client; returns what went wrong."""
    java = ["java", "-Xmx512m", "-cp", f"{folder}/lib/*:{folder}/classes"]
    node = {"NODE_PATH": str(folder / "node" / "node_modules")}
    clients: dict[str, tuple[list[str], Mapping[str, str]]] = {
        "grpc-java": ([*java, "Client"], {}),
        "grpc-js": (["node", str(HERE / "node" / "client.js")], node),
    }
    cluster = LocalCluster(2, lambda _, listen: [*java, "EchoRuntime", listen], environment=ENVIRONMENT, progress=print)
    failed = []
    try:
        await cluster.start()
        await asyncio.to_thread(register, cluster.instances[0].endpoint)
        for instance in cluster.instances:
            for name, (command, more) in clients.items():
                print(f"{name} at {instance.name}", flush=True)
                child = await asyncio.create_subprocess_exec(
                    *command, instance.endpoint, str(seconds), env={**os.environ, **more}
                )
                if await child.wait() != 0:
                    failed.append(f"{name} at {instance.name}")
    finally:
        await cluster.stop()
    return failed


def register(endpoint: str) -> None:
    """The model that all clients call."""
    with connect(endpoint) as client:
        info = pb.ModelInfo(type="echo", path="m")
        request = pb.RegisterModelRequest(modelId="m", modelInfo=info, loadNow=True, sync=True)
        client.call("mmesh.ModelMesh/registerModel", request, pb.ModelStatusInfo)


def main() -> int:
    """Build, run, and say what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to build")
    parser.add_argument("--seconds", type=int, default=10, help="how long to call over connections that age")
    given = parser.parse_args()
    build(given.folder.resolve())
    failed = asyncio.run(run(given.folder.resolve(), given.seconds))
    print(f"interop: {'failed: ' + ', '.join(failed) if failed else 'all right'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
