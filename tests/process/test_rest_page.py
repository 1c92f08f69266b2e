"""REST at a real mesh: what the page on it shows, by curl, at every instance."""

import asyncio
import json
import re
import shlex
from pathlib import Path
from typing import Any

import joblib
import pytest
from conftest import eventually
from sklearn.datasets import load_iris
from sklearn.naive_bayes import GaussianNB
from test_up import Up, up

from modelmesh import __version__

pytestmark = pytest.mark.process
PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "call-by-rest.md").read_text()
PYTHON = (Path(__file__).parents[2] / "docs" / "how-to" / "call-from-python.md").read_text()
SHOWN = re.findall(r"^\$ (curl .*)\n(\{.*\})$", PAGE, flags=re.MULTILINE)


async def curl(command: str, url: str, *more: str) -> Any:
    """The JSON that a command of the page answers, at `url`."""
    words = shlex.split(command.replace("localhost:8008", url))
    process = await asyncio.create_subprocess_exec(*words, *more, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    return json.loads(out)


async def the_words(urls: list[str]) -> None:
    """The events of the page, each sent when it is made; and one answer of a model that has several."""
    ((command, shown),) = re.findall(r"^\$ (curl .*generate_stream.*)\n((?:data: .*\n\n)+)", PAGE, flags=re.MULTILINE)
    for url in urls:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command.replace("localhost:8008", url)), stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        assert out.decode() == shown
        answer = await curl(command.replace("generate_stream", "generate"), url)
        assert "ModelStreamInfer" in answer["error"]
        answer = await curl(command.replace("generate_stream", "generate").replace("to be", "to"), url)
        assert answer == {"model_name": "words", "text_output": "to"}


async def the_words_from_the_shell(mesh: Up, folder: Path) -> None:
    """`modelmesh infer --stream`, as the page on Python has it."""
    ((request, shown),) = re.findall(
        r"^\$ echo '(.*)' \| modelmesh infer words .*\n((?:text_output.*\n)+)", PYTHON, re.MULTILINE
    )
    (folder / "request.json").write_text(request)
    asked = ("infer", "words", "--data", str(folder / "request.json"), "--stream")
    assert (await mesh.command(*asked))[:2] == (0, shown)
    status, said, _ = await mesh.command(*asked, "--json")
    assert status == 0
    assert [json.loads(line)["outputs"][0]["data"] for line in said.splitlines()] == [["to"], ["be"]]
    status, _, error = await mesh.command("infer", "nothing", "--data", asked[3], "--stream")
    assert (status, "nothing" in error) == (1, True)


async def the_repository(urls: list[str]) -> None:
    """Listed, unloaded and loaded at one instance, seen at the other; and V1 as the page has it."""
    assert await curl(f"curl -s {urls[0]}/v2/models?limit=1", "") == {"models": ["iris"], "next": "models:iris"}
    assert await curl(f"curl -s {urls[1]}/v2/models?page=vmodels:", "") == {"models": ["best"]}
    one, other = (f"curl -s -X POST {url}/v2/repository" for url in urls)
    states = {model["name"]: model["state"] for model in await curl(f"{other}/index", "")}
    assert states == {"iris": "READY", "words": "READY", "best": "READY"}
    assert await curl(f"{one}/models/best/unload", "") == {"name": "best", "unload": True}

    async def unloaded() -> bool:
        ready = await curl(f"{other}/index", "", "-d", '{"ready": true}')
        return [model["name"] for model in ready] == ["words"]

    await eventually(unloaded)
    assert await curl(f"{other}/models/iris/load", "", "-d", "{}") == {"name": "iris", "load": True}
    assert "not registered" in (await curl(f"{other}/models/lily/load", ""))["error"]
    (predict,) = re.findall(r"^\$ (curl .*:predict .*?) \| python3", PAGE, flags=re.MULTILINE)
    answer = await curl(predict, urls[0])
    assert [row["label"] for row in answer["predictions"]] == [0, 2]
    assert "/v2/models/{name}/infer" in (await curl(f"curl -s {urls[0]}/openapi.json", ""))["paths"]


async def test_the_page_on_rest(tmp_path: Path) -> None:
    rows, classes = load_iris(return_X_y=True)
    joblib.dump(GaussianNB().fit(rows, classes), tmp_path / "iris.joblib")
    assert len(SHOWN) == 4
    (code,) = re.findall(r"```python\n# my-models/words/model.py\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "model.py").write_text(code)
    async with up("--models", str(tmp_path), instances=2) as mesh:
        urls = re.findall(r"http://127\.0\.0\.1:\d+(?= |\n)", mesh.said)
        assert len(set(urls)) == 2, mesh.said
        assert re.search(rf"curl {urls[0]}/v2/models/iris\n", mesh.said)
        for command, answer in SHOWN:
            for url in urls:
                assert await curl(command, url) == json.loads(answer), command
        (register,) = re.findall(r"^\$ modelmesh (models register words .*)$", PAGE, flags=re.MULTILINE)
        assert (await mesh.command(*register.split()))[:2] == (0, "words: NOT_LOADED\n")
        await the_words(urls)
        await the_words_from_the_shell(mesh, tmp_path)
        status, said, error = await mesh.command(
            "infer", "iris", "input=[5.1, 3.5, 1.4, 0.2]", "--output", "label", "--priority", "high"
        )
        assert (status, said.split()) == (0, ["label", "INT64", "[1]", "[0]"]), error
        # HTTP/2, and a vmodel of which nobody has heard before.
        status, _, error = await mesh.command("vmodels", "set", "best", "iris")
        assert status == 0, error
        infer = next(command for command, _ in SHOWN if "/infer" in command).replace("/iris/", "/best/")
        for url in urls:
            answer = await curl(infer, url, "--http2-prior-knowledge")
            assert answer["outputs"][0]["data"] == [0, 2]
        status, said, error = await mesh.command("infer", "best", "input=[[6.7, 3.0, 5.2, 2.3]]", "--json")
        assert status == 0, error
        assert json.loads(said)["outputs"][0] == {"name": "label", "datatype": "INT64", "shape": [1], "data": [2]}
        status, _, error = await mesh.command("infer", "best", "x=1")
        assert (status, "the model has no input x; it has input" in error) == (2, True)
        await the_repository(urls)
        assert await curl(f"curl -s {urls[0]}/v2", "") == {
            "name": "modelmesh",
            "version": __version__,
            "extensions": [
                "model_repository",
                "model_repository(unload_dependents)",
                "binary_tensor_data",
                "classification",
                "generate",
            ],
        }
        assert await curl(f"curl -s {urls[0]}/v2/health/ready", "") == {"ready": True}
