"""The real servers that are measured, each with its models and how one of them is called."""

import contextlib
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import real_mlserver
import real_torchserve
import real_triton
from real_kit import Beings, python_of, tensor_request

from modelmesh.servers.driver import Driver
from modelmesh.servers.mlserver import MLServer
from modelmesh.servers.torchserve import TorchServe
from modelmesh.servers.triton import Triton

INFER = "inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Call:
    """An inference.

    Attributes:
        model_format, path: Of the model.
        method: Without the slash before it.
        message: Of the call, by the model's name.
        data_port: Where the server takes it.
    """

    model_format: str
    path: Path
    method: str
    message: Callable[[str], bytes]
    data_port: Callable[[Beings], int]


@dataclass(frozen=True)
class Subject:
    """A server.

    Attributes:
        name: As its adapter is called.
        command, environment, driver: Of the server on those ports.
        models: By format, those that are loaded and unloaded.
        call: What is called.
    """

    name: str
    command: Callable[[Beings], list[str]]
    environment: Callable[[Beings], Mapping[str, str]]
    driver: Callable[[Beings], Driver]
    models: Mapping[str, Path]
    call: Call


def subjects(folder: Path) -> list[Subject]:
    """The servers that are installed, with their models."""
    made = folder / "models"
    made.mkdir()
    found = []
    for make in (_mlserver, _triton, _torchserve):
        with contextlib.suppress(AssertionError):  # it is not installed
            found.append(make(folder, made))
    return found


def _mlserver(_: Path, made: Path) -> Subject:
    subprocess.run([python_of("mlserver"), str(Path(__file__).with_name("models.py")), str(made)], check=True)
    rows = np.array([[5.1, 3.5, 1.4, 0.2]])
    return Subject(
        "mlserver",
        real_mlserver.command,
        real_mlserver.environment,
        lambda ports: MLServer(ports.grpc, ports.metrics),
        {"sklearn": made / "k.joblib", "xgboost": made / "b.ubj", "lightgbm": made / "l.bst"},
        Call("sklearn", made / "small.joblib", INFER, lambda name: _tensors(name, rows), lambda ports: ports.grpc),
    )


def _triton(folder: Path, made: Path) -> Subject:
    python_of("triton")
    real_triton.write_model(made / "python", 2)
    return Subject(
        "triton",
        real_triton.command_with(real_triton.copy_backends(folder)),
        real_triton.environment,
        lambda ports: Triton(ports.grpc),
        {"python": made / "python"},
        Call(
            "python",
            made / "python",
            INFER,
            lambda name: _tensors(name, real_triton.ROWS),
            lambda ports: ports.grpc,
        ),
    )


def _torchserve(_: Path, made: Path) -> Subject:
    python_of("torchserve")
    real_torchserve.write_archive(made / "t.mar", 2)

    def message(name: str) -> bytes:
        return b"\x0a" + bytes([len(name)]) + name.encode() + real_torchserve.Predictions(3).SerializeToString()

    return Subject(
        "torchserve",
        real_torchserve.command,
        real_torchserve.environment,
        lambda ports: TorchServe(ports.grpc, ports.folder / TorchServe.folder),
        {"pytorch-mar": made / "t.mar"},
        Call("pytorch-mar", made / "t.mar", real_torchserve.PREDICT, message, real_torchserve.inference_port),
    )


def _tensors(name: str, rows: np.ndarray) -> bytes:
    return tensor_request(name, rows, "x").SerializeToString()
