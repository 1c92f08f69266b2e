"""ServingRuntimes on a machine without containers: which are started, and with what."""

import shlex
from pathlib import Path

import pytest

from modelmesh.declared import Declared, Document, Runtime, declare, read_documents
from modelmesh.instance.local_runtimes import (
    Limits,
    LocalRuntimeError,
    Place,
    constraints,
    local_path,
    parts,
    shipped_runtimes,
    wanted_runtimes,
)

LIMITS = Limits(1000, 100)
SHIPPED = {runtime.name: runtime for runtime in shipped_runtimes()}


def isvc(name: str, model_format: str, path: str = "f", *, runtime: str = "", uri: str = "") -> str:
    where = f"storageUri: {uri}" if uri else f"storage: {{path: {path}}}"
    pinned = f"runtime: {runtime}" if runtime else "{}"
    return f"""
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {{name: {name}}}
spec:
  predictor:
    model:
      modelFormat: {{name: {model_format}}}
      {where}
      {pinned if runtime else ""}
---
"""


def own_runtime(name: str, command: str = "", **more: str) -> str:
    annotation = f"modelmesh.io/local-command: {command!r}" if command else "a: b"
    return f"""
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata: {{name: {name}, annotations: {{{annotation}}}}}
spec:
  multiModel: true
  grpcEndpoint: port:8085
  supportedModelFormats: [{{name: mine, autoSelect: true}}]
  containers: [{{name: c}}]
---
"""


def read(text: str) -> Declared:
    documents, problems = read_documents("m.yaml", text)
    assert not problems
    found = declare(documents, known=shipped_runtimes())
    assert not found.problems, found.problems
    return found


def started(text: str) -> list[str]:
    return [runtime.name for runtime in wanted_runtimes(read(text), shipped_runtimes())]


def test_the_shipped_runtimes_keep_the_old_contracts() -> None:
    """Source: spec/runtime-adapters.md 10."""
    facts = {
        name: (runtime.data_endpoint, runtime.adapter and runtime.adapter.management_port, runtime.protocols)
        for name, runtime in SHIPPED.items()
    }
    assert facts == {
        "mlserver-1.x": ("port:8001", 8001, ("grpc-v2",)),
        "modelmesh-1.x": ("port:8085", None, ("grpc-v2",)),
        "ovms-1.x": ("port:8001", 8888, ("grpc-v1",)),
        "torchserve-0.x": ("port:7070", 7071, ()),
        "triton-2.x": ("port:8001", 8001, ("grpc-v2",)),
    }
    for runtime in SHIPPED.values():
        assert runtime.serves
        assert runtime.management_endpoint == "port:8085"
        assert runtime.cluster_wide
        if runtime.adapter is not None:
            assert (runtime.adapter.buffer_bytes, runtime.adapter.load_timeout_ms) == (134217728, 90_000)
    assert {"mt:sklearn:0", "mt:xgboost:1", "mt:lightgbm:3"} <= SHIPPED["mlserver-1.x"].labels
    assert {"mt:keras:2", "mt:onnx:1", "mt:pytorch:1", "mt:tensorflow:2"} <= SHIPPED["triton-2.x"].labels
    assert not SHIPPED["triton-2.x"].labels & {"mt:sklearn", "mt:xgboost"}, "only for models that name it"
    assert "mt:openvino_ir:opset1" in SHIPPED["ovms-1.x"].labels
    assert "mt:pytorch-mar:0" in SHIPPED["torchserve-0.x"].labels


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (isvc("a", "sklearn"), ["modelmesh-1.x"]),
        (isvc("a", "onnx") + isvc("b", "sklearn"), ["modelmesh-1.x"]),
        (isvc("a", "xgboost"), ["mlserver-1.x"]),
        (isvc("a", "sklearn", runtime="mlserver-1.x"), ["mlserver-1.x"]),
        (isvc("a", "sklearn", runtime="mlserver-1.x") + isvc("b", "sklearn"), ["mlserver-1.x"]),
        (own_runtime("mine", "run") + isvc("a", "mine"), ["mine"]),
        (own_runtime("mine", "run"), ["mine"]),
    ],
)
def test_what_models_need_is_started_and_no_more(text: str, names: list[str]) -> None:
    assert started(text) == names


def test_a_model_that_no_runtime_takes_ends_the_start_with_the_reason() -> None:
    with pytest.raises(LocalRuntimeError, match="no declared runtime takes fortran"):
        started(isvc("a", "fortran"))


def test_models_of_types_that_nobody_takes_can_go_nowhere() -> None:
    found = constraints([SHIPPED["modelmesh-1.x"]])
    assert found["mt:onnx"] == {"required": ["mt:onnx"]}
    assert found["_default"] == {"required": ["_no_runtime"]}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (isvc("a", "onnx", "dir/m.onnx"), "file:///here/dir/m.onnx"),
        (isvc("a", "onnx", "/abs/m.onnx"), "file:///abs/m.onnx"),
        (isvc("a", "onnx", uri="s3://b/m.onnx"), "m.onnx"),
        (isvc("a", "onnx", uri="hf://org/repo"), "hf://org/repo"),
    ],
)
def test_a_path_without_a_storage_lies_beside_the_manifest(text: str, path: str) -> None:
    assert local_path(read(text).wanted[0], Path("/here")) == path


def made(runtime: Runtime, tmp_path: Path, *, has: bool = True, **more: object):
    place = Place(tmp_path / "place", 1001, 1002, 1003)
    return parts(runtime, place, LIMITS, models=tmp_path, which=lambda name: name if has else None, **more)


def test_a_server_with_an_adapter_is_two_processes_that_know_each_other(tmp_path: Path) -> None:
    found = made(SHIPPED["mlserver-1.x"], tmp_path, environment={"AWS_ACCESS_KEY_ID": "k", "SECRET_OF_ANOTHER": "x"})
    assert found.data_port == 1001
    assert found.server is not None
    command, environment = found.server
    assert command == ["mlserver", "start", f"{tmp_path}/place/_mlserver_models"]
    assert environment["MLSERVER_GRPC_PORT"] == "1001", "not the container's port"
    assert environment["MLSERVER_PARALLEL_WORKERS"] == "0", "the container's setting"
    assert "AWS_ACCESS_KEY_ID" not in environment, "a server pulls nothing"
    adapter = found.runtime("unix:///s")
    assert adapter[adapter.index("adapter") :] == [
        "adapter",
        "mlserver",
        "--listen",
        "unix:///s",
        "--models",
        str(tmp_path),
    ]
    told = found.runtime_environment
    assert (told["RUNTIME_PORT"], told["LOADTIME_TIMEOUT"], told["USE_EMBEDDED_PULLER"]) == ("1001", "90000", "true")
    assert int(told["CONTAINER_MEM_REQ_BYTES"]) - int(told["MEM_BUFFER_BYTES"]) == LIMITS.capacity_bytes
    assert told["AWS_ACCESS_KEY_ID"] == "k"
    assert "SECRET_OF_ANOTHER" not in told


def test_a_runtime_that_speaks_for_itself_is_one_process(tmp_path: Path) -> None:
    found = made(SHIPPED["modelmesh-1.x"], tmp_path)
    command = found.runtime("unix:///s")
    assert command[command.index("--listen") + 1] == "unix:///s"
    assert command[command.index("--capacity") + 1] == "1000"
    assert found.server is None
    assert found.data_port is None


@pytest.mark.parametrize("name", ["mlserver-1.x", "modelmesh-1.x"])
def test_runtimes_that_pull_share_one_cache_and_know_what_the_storage_reads(name: str, tmp_path: Path) -> None:
    """Adapters had caches of their own, and did not know of proxies and of the registries' passwords."""
    around = {
        "MODELMESH_CACHE": "/kept",
        "DOCKER_CONFIG": "/d",
        "ALL_PROXY": "socks5://p",
        "STORAGE_CONFIG_DIR": "/env",
    }
    told = made(SHIPPED[name], tmp_path, environment=around).runtime_environment
    assert {told["DOCKER_CONFIG"], told["ALL_PROXY"]} == {"/d", "socks5://p"}
    assert told["STORAGE_CONFIG_DIR"] == "/env"
    assert told.get("MODEL_CACHE_DIR", told["MODELMESH_CACHE"]) == "/kept"
    said = made(SHIPPED[name], tmp_path, environment=around, storage_configs=Path("/given")).runtime_environment
    assert said["STORAGE_CONFIG_DIR"] == "/given", "what the command says counts more"


def test_trusted_places_reach_the_runtime_that_asks_for_them(tmp_path: Path) -> None:
    command = made(SHIPPED["modelmesh-1.x"], tmp_path, trust=["s3://b/*", "hf://o/*"]).runtime("unix:///s")
    assert command[-4:] == ["--trust", "s3://b/*", "--trust", "hf://o/*"]
    assert "--trust" not in made(SHIPPED["modelmesh-1.x"], tmp_path).runtime("unix:///s")


@pytest.mark.parametrize(
    ("text", "has", "said"),
    [
        (own_runtime("mine"), True, "has no command for this machine"),
        (own_runtime("mine", "serve it"), False, "needs serve, which is not on this machine"),
        (own_runtime("mine", 'serve "it'), True, "No closing quotation"),
    ],
)
def test_a_runtime_that_cannot_be_started_says_what_would_help(text: str, has: bool, said: str, tmp_path: Path) -> None:
    with pytest.raises(LocalRuntimeError, match=said):
        made(read(text).runtimes[0], tmp_path, has=has)


def test_a_command_may_name_only_what_there_is(tmp_path: Path) -> None:
    runtime = read(own_runtime("mine", "serve {prot}")).runtimes[0]
    with pytest.raises(LocalRuntimeError, match=r"prot.*is none of.*grpc_port"):
        made(runtime, tmp_path).runtime("unix:///s")
    good = read(own_runtime("mine", "serve --at {listen}")).runtimes[0]
    assert shlex.join(made(good, tmp_path).runtime("unix:///s")) == "serve --at unix:///s"


def test_documents_of_runtimes_are_one_a_file() -> None:
    assert len(SHIPPED) == 5
    assert declare([Document("x", {"kind": "x"})]).problems
