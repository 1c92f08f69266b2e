"""Start a runtime, load a model, classify, and check the contract: `python demo.py python` or `python demo.py go`."""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc

from modelmesh._proto import model_runtime_pb2 as management
from modelmesh.testing.conformance import Subject, run_all

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "python"))

from classifier_pb2 import ClassifyReply, ClassifyRequest  # noqa: E402 - lies beside the Python runtime


def command(language: str, folder: str, target: str) -> list[str]:
    """How to start the runtime of that language."""
    if language == "python":
        return [sys.executable, str(HERE / "python" / "runtime.py"), "--listen", target]
    subprocess.run(["go", "build", "-o", f"{folder}/words", "."], cwd=HERE / "go", check=True)
    return [f"{folder}/words", "--listen", target]


async def classify(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str | bytes], ...]) -> ClassifyReply:
    """One inference call; the metadata names the model."""
    rpc = channel.unary_unary(
        "/classifier.Classifier/Classify",
        request_serializer=ClassifyRequest.SerializeToString,
        response_deserializer=ClassifyReply.FromString,
    )
    return await rpc(ClassifyRequest(text="the price of a ball at the bank"), metadata=metadata, timeout=5)


async def talk(target: str) -> None:
    """Do what a mesh does: load, infer, and everything else that the contract asks for."""
    async with grpc.aio.insecure_channel(target) as channel:
        load = channel.unary_unary(
            "/mmesh.ModelRuntime/loadModel",
            request_serializer=management.LoadModelRequest.SerializeToString,
            response_deserializer=management.LoadModelResponse.FromString,
        )
        path = str(HERE / "topics.json")
        await load(management.LoadModelRequest(modelId="topics", modelPath=path), wait_for_ready=True, timeout=10)
        reply = await classify(channel, (("mm-model-id", "topics"),))
        print(f"the price of a ball at the bank -> {reply.label}")
    broken = str(HERE / "README.md")
    verdicts = await run_all(Subject(target, "words", path, broken_path=broken, infer=classify))
    for name, verdict in verdicts.items():
        if verdict.startswith("FAILED"):
            print(name, verdict)
    holds = sum(not verdict.startswith("FAILED") for verdict in verdicts.values())
    print(f"{holds} of {len(verdicts)} checks of the contract hold")


def main() -> None:
    """Run the runtime as a program beside us, as it stands beside a mesh."""
    with tempfile.TemporaryDirectory() as folder:
        target = f"unix://{folder}/runtime.sock"
        process = subprocess.Popen(command(sys.argv[1], folder, target), stderr=subprocess.DEVNULL)
        try:
            asyncio.run(talk(target))
        finally:
            process.terminate()
            process.wait(10)
    print("the runtime ended", "cleanly" if process.returncode == 0 else f"with {process.returncode}")


if __name__ == "__main__":
    main()
