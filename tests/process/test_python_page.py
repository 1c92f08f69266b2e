"""The Python client at a real mesh: what its page shows, at every instance."""

import asyncio
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.naive_bayes import GaussianNB

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.cli.client import connect
from modelmesh.client import Client
from modelmesh.instance.local_cluster import LocalCluster

pytestmark = pytest.mark.process
PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "call-from-python.md").read_text()


def register(endpoint: str) -> None:
    info = pb.ModelInfo(type="sklearn", path="iris.joblib")
    with connect(endpoint) as client:
        request = pb.SetVModelRequest(vModelId="best", targetModelId="iris", modelInfo=info)
        client.call("mmesh.ModelMesh/setVModel", request, pb.VModelStatusInfo)


def compare(endpoint: str, model: GaussianNB, rows: np.ndarray) -> None:
    with Client(endpoint) as client:
        answer = client.infer("iris", {"input": rows})
    np.testing.assert_array_equal(answer["label"], model.predict(rows))
    np.testing.assert_allclose(answer["probabilities"], model.predict_proba(rows), rtol=1e-9)


async def test_the_page_on_python(tmp_path: Path) -> None:
    rows, classes = load_iris(return_X_y=True)
    model = GaussianNB().fit(rows, classes)
    folder = tmp_path / "models"
    folder.mkdir()
    joblib.dump(model, folder / "iris.joblib")

    def runtime(_: int, listen: str) -> list[str]:
        command = [sys.executable, "-m", "modelmesh.cli", "runtime", "--listen", listen, "--models", str(folder)]
        return [*command, "--capacity", "64MiB", "--default-size", "6MiB"]

    cluster = LocalCluster(2, runtime, folder=tmp_path / "state")
    try:
        await cluster.start()
        await asyncio.to_thread(register, cluster.instances[0].endpoint)
        for instance in cluster.instances:
            page = tmp_path / "page.md"
            page.write_text(PAGE.replace("localhost:8033", instance.endpoint))
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "doctest", page, stdout=asyncio.subprocess.PIPE
            )
            async with asyncio.timeout(60):
                said, _ = await process.communicate()
            assert process.returncode == 0, said.decode()
            await asyncio.to_thread(compare, instance.endpoint, model, rows)
    finally:
        await cluster.stop()
