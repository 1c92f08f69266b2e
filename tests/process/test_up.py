"""`modelmesh up` when things around it are odd: children end, names are strange, the folder is in use or has changed."""

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import grpc.aio
import joblib
import numpy as np
import pytest
from conftest import eventually
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.naive_bayes import GaussianNB
from test_commands import CLI, descendants

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.instance.local_cluster import free_port

pytestmark = pytest.mark.process
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Up:
    """A running `modelmesh up` without a terminal."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.said = ""

    async def says(self, text: str, *, within: float = 60, anew: bool = False) -> None:
        """Read until this was said; `anew`: from now on."""
        assert self.process.stdout is not None
        if anew:
            self.said = ""
        async with asyncio.timeout(within):
            while text not in self.said:
                line = await self.process.stdout.readline()
                assert line, self.said
                self.said += line.decode()

    def child(self, *words: str) -> int:
        """The process id of the child whose command line has these words."""
        found = [
            pid
            for pid in descendants(self.process.pid)
            if all(word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for word in words)
        ]
        assert len(found) == 1, (words, found)
        return found[0]

    async def command(self, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *CLI,
            *arguments,
            *("--address", f"127.0.0.1:{self.port}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        async with asyncio.timeout(30):
            out, error = await process.communicate()
        return process.returncode or 0, out.decode(), error.decode()

    async def models(self) -> dict[str, str]:
        status, out, error = await self.command("models", "list", "--json")
        assert status == 0, error
        return {model["id"]: model.get("path", "") for model in json.loads(out)["models"]}

    async def infer(
        self, model: str, rows: np.ndarray, *, number: int = 0, timeout: float = 20
    ) -> oip.ModelInferResponse:
        request = oip.ModelInferRequest(model_name=model)
        request.inputs.add(name="input", datatype="FP64", shape=rows.shape)
        request.raw_input_contents.append(rows.astype("<f8").tobytes())
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{self.port + number}",
            options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)],
        ) as channel:
            call = channel.unary_unary(
                INFER,
                request_serializer=oip.ModelInferRequest.SerializeToString,
                response_deserializer=oip.ModelInferResponse.FromString,
            )
            return await call(request, metadata=[("mm-model-id", model)], timeout=timeout)

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGINT)
            async with asyncio.timeout(40):
                assert self.process.stdout is not None
                self.said += (await self.process.stdout.read()).decode()
                await self.process.wait()


@contextlib.asynccontextmanager
async def up(
    *arguments: str, instances: int = 1, environment: dict[str, str] | None = None, ready: bool = True
) -> AsyncIterator[Up]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *CLI,
        *("up", "--port", str(port), "-n", str(instances), "--capacity", "256MiB", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
    )
    started = Up(process, port)
    try:
        if ready:
            await started.says("running; Ctrl-C stops")
        yield started
        await started.stop()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture(scope="session")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("iris") / "iris.joblib"
    joblib.dump(GaussianNB().fit(*load_iris(return_X_y=True)), file)
    return file


ROW = np.array([[5.1, 3.5, 1.4, 0.2]])


async def test_a_child_that_ends_is_started_again_and_the_others_go_on(tmp_path: Path, iris: Path) -> None:
    shutil.copy(iris, tmp_path / "iris.joblib")
    async with up("--models", str(tmp_path), instances=2) as running:
        assert (await running.infer("iris", ROW)).outputs

        first = next(
            pid
            for pid in descendants(running.process.pid)
            if b"runtime-1.sock" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        others = set(descendants(running.process.pid)) - {first}
        os.kill(first, signal.SIGKILL)
        await running.says("runtime of instance-1 was ended by SIGKILL")
        assert (await running.infer("iris", ROW, number=1)).outputs, "the other instance serves"
        await running.says("starting runtime of instance-1 again")
        assert others <= set(descendants(running.process.pid))

        mesh = next(
            pid for pid in others if b"MM_INSTANCE_ID=instance-1\0" in Path(f"/proc/{pid}/environ").read_bytes()
        )
        os.kill(mesh, signal.SIGKILL)
        await running.says("starting instance-1 again")

        async def serves() -> bool:
            with contextlib.suppress(grpc.aio.AioRpcError):
                return bool((await running.infer("iris", ROW, number=0, timeout=5)).outputs)
            return False

        await eventually(serves, within=30)


async def test_a_runtime_of_ones_own_is_started_for_each_instance() -> None:
    command = f"{shlex.quote(sys.executable)} -m modelmesh.testing.runtime --listen {{listen}}"
    async with up("--runtime", command, instances=2, environment={"RS_ALLOW_ANY": "true"}) as running:
        assert "modelmesh models register my-model --type TYPE --path PATH" in running.said
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(running.process.pid)]
        assert sum(b"modelmesh.testing.runtime" in one and b"unix:" in one for one in commands) == 2
        for words in (("register", "m", "--type", "fake", "--path", "SIZE_1000_1_1"), ("load", "m")):
            status, _, error = await running.command("models", *words)
            assert status == 0, error


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--runtime", "my-server --port 1"), "{listen}"),
        (("--runtime", "my-server '{listen}"), "is no command"),
        (("--runtime", "my-server {listen}", "--models", "."), "give only one of"),
    ],
)
async def test_a_runtime_that_cannot_be_started_so_is_refused(arguments: tuple[str, ...], why: str) -> None:
    async with up(*arguments, ready=False) as refused:
        await refused.says(why)
        assert await refused.process.wait() == 2


async def test_a_state_folder_is_for_one_at_a_time_and_private(tmp_path: Path, iris: Path) -> None:
    models, state = tmp_path / "models", tmp_path / "100% mine"
    models.mkdir()
    shutil.copy(iris, models / "iris.joblib")
    async with up("--models", str(models), "--state", str(state)) as first:
        async with up("--models", str(models), "--state", str(state), ready=False) as second:
            await second.says("is in use by another modelmesh up")
            assert str(first.process.pid) in second.said
            assert await second.process.wait() == 1
        assert (await first.infer("iris", ROW)).outputs, "the first one still has its socket"
        for file in [state, *state.rglob("*")]:
            if not file.is_socket() and file.parent != state / "logs":
                assert not file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH), file
        assert not (state / "logs").stat().st_mode & stat.S_IRWXO


async def test_registrations_outlive_the_number_of_instances_and_follow_the_files(tmp_path: Path, iris: Path) -> None:
    models, state = tmp_path / "models", tmp_path / "state"
    models.mkdir()
    for name in ("a.joblib", "b.joblib", "c.JOBLIB"):
        shutil.copy(iris, models / name)
    arguments = ("--models", str(models), "--state", str(state))
    async with up(*arguments) as running:
        assert await running.models() == {"a": "a.joblib", "b": "b.joblib", "c": "c.JOBLIB"}
        assert (await running.command("models", "register", "by-hand", "--type", "onnx", "--path", "x.onnx"))[0] == 0
        assert (await running.command("vmodels", "set", "best", "a"))[0] == 0
    (models / "a.joblib").rename(models / "a.pickle")
    (models / "b.joblib").rename(models / "b.pkl")
    (models / "c.JOBLIB").unlink()
    async with up(*arguments, instances=2) as running:
        assert await running.models() == {"a": "a.joblib", "b": "b.pkl", "by-hand": "x.onnx"}
        assert "took 5 registrations over" in running.said
        assert "unregistered c" in running.said
        assert "a stays as it is registered" in running.said, "a vmodel names it"
        assert (await running.command("vmodels", "delete", "best"))[0] == 0
    async with up(*arguments) as running:
        assert await running.models() == {"a": "a.pickle", "b": "b.pkl", "by-hand": "x.onnx"}
        assert (await running.infer("a", ROW)).outputs


async def test_names_of_others_are_shown_and_end_nothing(tmp_path: Path, iris: Path) -> None:
    names = ["llama[q4]", "a[/b]", ":smile:", "x" * 200 + "1", "x" * 200 + "2", "es\x1b[31mc"]
    shutil.copy(iris, tmp_path / "llama[q4].joblib")
    shutil.copy(iris, os.fsencode(tmp_path) + b"/bad\xff.joblib")
    async with up("--models", str(tmp_path)) as running:
        assert "passed over" in running.said
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
            register = channel.unary_unary(
                "/mmesh.ModelMesh/registerModel", request_serializer=pb.RegisterModelRequest.SerializeToString
            )
            for name in names[1:]:
                await register(pb.RegisterModelRequest(modelId=name, modelInfo=pb.ModelInfo(type="[bold]", path=name)))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await register(
                    pb.RegisterModelRequest(modelId="big", modelInfo=pb.ModelInfo(type="t", path="p" * 100_000))
                )
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "modelInfo.path" in (caught.value.details() or "")
        status, out, error = await running.command("models", "list")
        assert status == 0, error
        shown = [line.split()[0] for line in out.splitlines()[1:]]
        assert sorted(shown) == sorted([*names[:-1], r"es\x1b[31mc"])
        assert (await running.infer("llama[q4]", ROW)).outputs
        for name in names:
            status, out, error = await running.command("models", "status", name)
            assert (status, "\x1b" in out) == (0, False), error


async def test_proxies_credentials_and_limits_of_the_environment(tmp_path: Path, iris: Path) -> None:
    shutil.copy(iris, tmp_path / "iris.joblib")
    nowhere = f"http://127.0.0.1:{free_port()}"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "all_proxy"), nowhere)
    proxies["no_proxy"] = ""
    secret = {
        "GITHUB_TOKEN": "a secret of mine",
        "AWS_SECRET_ACCESS_KEY": "one of the store",
        "MM_SVC_GRPC_MAX_MSG_SIZE": str(64 * 1024 * 1024),
    }
    async with up("--models", str(tmp_path), environment={**proxies, **secret}) as running:
        status, out, error = await running.command("models", "load", "iris", environment=proxies)
        assert status == 0, error
        assert "LOADED" in out
        for pid in descendants(running.process.pid):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"a secret of mine" not in environment
            # Who pulls needs it, and nobody else has it.
            assert (b"one of the store" in environment) == (b"\0runtime\0" in Path(f"/proc/{pid}/cmdline").read_bytes())
        rows = np.tile(ROW, (20 * 1024 * 1024 // 32, 1))  # 20 MiB, more than the default takes
        assert (await running.infer("iris", rows)).outputs


async def test_without_a_folder_no_code_is_loaded(tmp_path: Path, iris: Path) -> None:
    async with up() as running:
        registered = ("models", "register", "m", "--type", "sklearn", "--path", str(iris), "--load")
        status, out, _ = await running.command(*registered)
        assert status == 1
        assert "--models FOLDER" in out


def constant(folder: Path, answer: int) -> Path:
    """A model that always gives this answer, in a file beside the folder that is followed."""
    file = folder.parent / f"{folder.name}-{answer}.joblib"
    joblib.dump(DummyClassifier(strategy="constant", constant=answer).fit(np.zeros((10, 4)), np.arange(10)), file)
    return file


async def test_the_folder_is_followed(tmp_path: Path, iris: Path) -> None:
    async with up("--models", str(tmp_path)) as running:
        assert f"cp model.onnx {tmp_path}/my-model.onnx" in running.said
        shutil.copy(iris, tmp_path / "new.joblib")
        await running.says("registered new")
        (tmp_path / "new.joblib").write_bytes(b"no model")
        await running.says("registered new again: its file has changed")
        with pytest.raises(grpc.aio.AioRpcError):
            await running.infer("new", ROW)
        shutil.copy(iris, tmp_path / "new.joblib")
        await running.says("registered new again: its file has changed", anew=True)
        assert (await running.infer("new", ROW)).outputs, "the failure of the old content is forgotten"
        (tmp_path / "new.joblib").rename(tmp_path / "newer.joblib")
        await running.says("unregistered new: new.joblib is not there any more")
        assert await running.models() == {"newer": "newer.joblib"}
        assert (await running.infer("newer", ROW)).outputs
        (tmp_path / "newer.joblib").unlink()
        await running.says("unregistered newer: newer.joblib is not there any more")
        assert await running.models() == {}


@pytest.mark.timeout(300)
async def test_no_call_fails_while_a_file_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    file = folder / "digit.joblib"
    shutil.copy(constant(folder, 1), file)
    answers: list[int] = []
    async with up("--models", str(folder), instances=2) as running:
        assert (await running.command("vmodels", "set", "link", "digit"))[0] == 0
        stop = asyncio.Event()

        async def call(instance: int) -> None:
            while not stop.is_set():
                response = await running.infer("digit", ROW, number=instance)
                answers.append(int(np.frombuffer(response.raw_output_contents[0], "<i8")[0]))

        callers = [asyncio.create_task(call(number % 2)) for number in range(4)]

        async def answered(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(60):
                while not condition():
                    for caller in callers:
                        assert not caller.done(), await caller
                    await asyncio.sleep(0.02)

        await answered(lambda: 1 in answers)
        for answer in (2, 3, 4):
            shutil.copy(constant(folder, answer), file)  # over the old one, as people copy
            await running.says("digit has a new file", anew=True)
            # A copy that was added meanwhile may have had the new content early: only answers from now on tell.
            seen = len(answers)
            await answered(lambda answer=answer, seen=seen: answers[seen:].count(answer) >= 20)
        file.write_bytes(b"no model")
        await running.says("digit is served from its loaded copies, because its new file cannot be")
        more = len(answers) + 100
        await answered(lambda: len(answers) >= more)
        assert set(answers[-50:]) == {4}
        constant(folder, 5).replace(file)
        await running.says("digit has a new file", anew=True)
        await answered(lambda: 5 in answers)
        shutil.copy(constant(folder, 6), folder / "other.joblib")
        await running.says("registered other")
        assert await running.models() == {"digit": "digit.joblib", "other": "other.joblib"}, "no trial is left"
        stop.set()
        await asyncio.gather(*callers)
    assert sorted(set(answers)) == [1, 2, 3, 4, 5]


async def test_several_instances_have_a_port_for_metrics_each(tmp_path: Path) -> None:
    async with up(instances=2, environment={"MM_METRICS": "prometheus:port=2112;scheme=http"}) as running:
        ports = [line.rpartition(" ")[2] for line in running.said.splitlines() if "metrics at port" in line]
        assert len(set(ports)) == 2
        for port in ports:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
                writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
                assert b"200" in await reader.readline()
                writer.close()
                await writer.wait_closed()


async def test_the_logs_are_kept_when_something_did_not_come_up(tmp_path: Path) -> None:
    async with up(environment={"MM_SVC_GRPC_MAX_MSG_SIZE": "nonsense"}, ready=False) as running:
        await running.says("the logs are kept in ")
        kept = Path(running.said.rpartition("the logs are kept in ")[2].strip())
        assert list(kept.glob("*.log"))
        shutil.rmtree(kept.parent)
