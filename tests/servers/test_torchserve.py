"""TorchServe: the archive's place, the configuration, and the driver against a double of its management service."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from trees import tree_of

from modelmesh._proto import torchserve_management_pb2 as pb
from modelmesh.runtime.errors import LoadError, RuntimeFault
from modelmesh.runtime.grpc_server import GrpcServer
from modelmesh.runtime.service import service_methods
from modelmesh.servers.driver import ServerAwayError, ServerError
from modelmesh.servers.layout import Given
from modelmesh.servers.torchserve import CONFIG, TorchServe, config, layout
from modelmesh.values.status import Status


@pytest.mark.parametrize(
    ("path", "files", "target"),
    [("squeezenet.mar", None, "squeezenet.mar"), ("dir", ("a.mar", "notes.txt"), "dir/a.mar")],
)
def test_an_archive_is_linked(path: str, files: Any, target: str) -> None:
    found = layout(Given("m", "pytorch-mar", tree_of(f"/models/m/{path}", files), None, "/x"))
    assert found.links == {"model.mar": f"/models/m/{target}"}
    assert not found.files


@pytest.mark.parametrize("files", [("model.pt",), ("a.mar", "b.mar"), ("below/a.mar",)])
def test_a_folder_without_one_archive_is_refused(files: tuple[str, ...]) -> None:
    with pytest.raises(LoadError, match="takes one archive"):
        layout(Given("m", "pytorch-mar", tree_of("/models/m/dir", files), None, "/x"))


@dataclass
class Double:
    """Answers as TorchServe 0.12 does."""

    models: dict[str, pb.RegisterModelRequest] = field(default_factory=dict)
    memory_bytes: int = 0
    looks: int = 0
    page: int = 2
    garbage: bool = False
    unregistered: list[str] = field(default_factory=list)
    ends: str = "READY"

    async def describe(self, request: pb.DescribeModelRequest, context: Any) -> pb.ManagementResponse:
        if request.model_name not in self.models:
            raise RuntimeFault("Model not found: x", status=Status.NOT_FOUND)
        if self.garbage:
            return pb.ManagementResponse(msg="<html>")
        self.looks += 1
        memory = self.memory_bytes if self.looks > 3 else 0
        workers = [{"id": "9000", "status": self.ends, "memoryUsage": memory, "pid": 1, "gpu": False}]
        return pb.ManagementResponse(msg=json.dumps([{"modelName": request.model_name, "workers": workers}]))

    async def list(self, request: pb.ListModelsRequest, _: Any) -> pb.ManagementResponse:
        first, names = request.next_page_token, sorted(self.models)
        found: dict[str, Any] = {
            "models": [{"modelName": name, "modelUrl": "x"} for name in names[first : first + self.page]]
        }
        if first + self.page < len(names):
            found["nextPageToken"] = str(first + self.page)
        return pb.ManagementResponse(msg="no json" if self.garbage else json.dumps(found))

    async def register(self, request: pb.RegisterModelRequest, context: Any) -> pb.ManagementResponse:
        if request.model_name in self.models:
            raise RuntimeFault("", status=Status.UNKNOWN)
        if request.model_name == "broken":
            raise RuntimeFault("Failed to start workers for model broken version: 1.0", status=Status.INTERNAL)
        self.models[request.model_name] = request
        return pb.ManagementResponse(msg="registered")

    async def unregister(self, request: pb.UnregisterModelRequest, context: Any) -> pb.ManagementResponse:
        self.unregistered.append(request.model_name)
        if self.models.pop(request.model_name, None) is None:
            raise RuntimeFault("Model not found", status=Status.NOT_FOUND)
        return pb.ManagementResponse(msg="unregistered")


@pytest.fixture
async def double() -> AsyncIterator[tuple[Double, int]]:
    made = Double()
    methods = {
        "DescribeModel": made.describe,
        "ListModels": made.list,
        "RegisterModel": made.register,
        "UnregisterModel": made.unregister,
    }
    descriptor = pb.DESCRIPTOR.services_by_name["ManagementAPIsService"]
    server = GrpcServer(service_methods(descriptor, methods), max_message_bytes=1 << 20)
    try:
        yield made, int((await server.listen("127.0.0.1:0")).rpartition(":")[2])
    finally:
        await server.stop(0)


@pytest.fixture
async def driver(double: tuple[Double, int], tmp_path: Path) -> AsyncIterator[TorchServe]:
    made = TorchServe(double[1], tmp_path / "store", workers=3, batch_size=4, batch_delay_ms=50)
    yield made
    await made.close()


async def test_a_model_is_registered_by_its_archive(
    driver: TorchServe, double: tuple[Double, int], tmp_path: Path
) -> None:
    await driver.load("a/b", tmp_path / "store" / "a%2Fb")
    assert double[0].models["a/b"] == pb.RegisterModelRequest(
        model_name="a/b",
        url="a%2Fb.mar",
        synchronous=True,
        initial_workers=3,
        batch_size=4,
        max_batch_delay=50,
    )
    place = tmp_path / "store" / "a%2Fb.mar"
    assert place.readlink() == tmp_path / "store" / "a%2Fb" / "model.mar"
    assert await driver.holds("a/b")
    assert not await driver.holds("other")
    for _ in range(2):  # what it does not know is a success
        await driver.unload("a/b", tmp_path / "store" / "a%2Fb")
    assert not place.is_symlink()
    assert not double[0].models


async def test_a_model_that_is_there_already_is_taken_away_first(
    driver: TorchServe, double: tuple[Double, int], tmp_path: Path
) -> None:
    """The old adapter failed with an empty text after a load whose answer was lost."""
    await driver.load("m", tmp_path / "store" / "m")
    await driver.load("m", tmp_path / "store" / "m")
    assert double[0].unregistered == ["m"]
    assert "m" in double[0].models


async def test_what_a_model_does_wrong_is_its_fault(driver: TorchServe, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="model 'broken': TorchServe: Failed to start workers") as caught:
        await driver.load("broken", tmp_path / "broken")
    assert caught.value.status is Status.INVALID_ARGUMENT


async def test_all_pages_of_its_models_are_left_over(
    driver: TorchServe, double: tuple[Double, int], tmp_path: Path
) -> None:
    for number in range(5):
        await driver.load(f"m{number}", tmp_path / f"m{number}")
    assert await driver.leftovers(tmp_path) == [f"m{number}" for number in range(5)]


async def test_memory_is_asked_for_until_it_is_told(
    driver: TorchServe, double: tuple[Double, int], tmp_path: Path
) -> None:
    """The old adapter asked once, saw 0, and took the archive's size."""
    double[0].memory_bytes = 123_456_789
    await driver.load("m", tmp_path / "m")
    assert await driver.size("m") == 123_456_789
    assert await driver.size("other") is None


async def test_a_model_without_a_ready_worker_is_not_held(
    driver: TorchServe, double: tuple[Double, int], tmp_path: Path
) -> None:
    await driver.load("m", tmp_path / "m")
    double[0].ends = "UNLOADING"
    assert not await driver.holds("m")


async def test_garbage_and_nobody(driver: TorchServe, double: tuple[Double, int], tmp_path: Path) -> None:
    await driver.load("m", tmp_path / "m")
    double[0].garbage = True
    with pytest.raises(ServerError, match="no JSON"):
        await driver.holds("m")
    with pytest.raises(ServerError, match="no JSON"):
        await driver.leftovers(tmp_path)
    away = TorchServe(1, tmp_path / "away")
    with pytest.raises(ServerAwayError):
        await away.ready()
    await away.close()


async def test_the_configuration_is_there_before_the_server_and_again_when_it_starts_anew(
    driver: TorchServe, tmp_path: Path
) -> None:
    file = tmp_path / "store" / CONFIG
    assert file.read_text() == config(tmp_path / "store")
    file.unlink()
    await driver.ready()
    assert file.exists()


def test_the_configuration_byte_for_byte() -> None:
    """The lines of old, and what TorchServe 0.12 needs besides: without them every call is refused."""
    lines = config(Path("/models/_torchserve_models")).splitlines()
    assert lines[0] == ""
    assert all(line.startswith("#") for line in lines[1:4])
    assert lines[4:] == [
        "enable_envvars_config=true",
        "model_store=/models/_torchserve_models",
        "disable_token_authorization=true",
        "enable_model_api=true",
        "metric_time_interval=2",
        "inference_address=http://127.0.0.1:8083",
        "number_of_netty_threads=8",
        "job_queue_size=512",
    ]
