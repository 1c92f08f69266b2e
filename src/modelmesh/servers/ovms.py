"""OpenVINO Model Server: all models in one configuration file, which the server reads again on request.

Source: spec/runtime-adapters.md 7. The server cannot be installed from a registry; this is tried against a double that keeps to
its documented configuration, reload and status API.
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from modelmesh.servers.driver import READY_BOUND_S, UNLOAD_BOUND_S, ServerAwayError, ServerError
from modelmesh.servers.layout import Given, Layout
from modelmesh.servers.memory import ServerMemory
from modelmesh.servers.repository import SERVICE, load_fault, words
from modelmesh.servers.versions import chosen_version
from modelmesh.values.status import Status

RELOAD_S = 30.0
"""For one reload, unless OVMS_RELOAD_TIMEOUT is set."""

LEAVING_S = 0.05
"""Between two looks at a model that is leaving."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024
_GONE = {"END"}


class Ovms:
    """The driver.

    Args:
        rest_port: Of its REST service.
        config: The configuration file that the server was started with; made if it is not there.
        reload_s: For one reload.
    """

    name = "OpenVINO Model Server"
    folder = "_ovms_models"
    texts: Sequence[str] = ()
    loads_one_version = True
    methods: Mapping[str, Sequence[int]] = {
        "tensorflow.serving.PredictionService/Predict": (1, 1),
        f"{SERVICE}/ModelInfer": (1,),
        f"{SERVICE}/ModelMetadata": (1,),
        f"{SERVICE}/ModelReady": (1,),
    }

    def __init__(self, rest_port: int, config: Path, reload_s: float = RELOAD_S) -> None:
        self._url = f"http://127.0.0.1:{rest_port}/v1/config"
        self._config = config
        self._reload_s = reload_s
        self._memory = ServerMemory(rest_port)
        self._desired: dict[str, str] = {}
        self._lock = asyncio.Lock()
        self._asked = 0
        self._covered = 0
        self._seen: Mapping[str, Any] = {}
        self._write()

    def layout(self, given: Given) -> Layout:
        """A version folder with the model's file, or the folder that is the version."""
        return layout(given)

    async def ready(self) -> str:
        """Whether it lists its models; it reports no version."""
        if not self._config.exists():
            await asyncio.to_thread(self._write)
        await self._status()
        return ""

    async def leftovers(self, root: Path) -> list[str]:
        """Models that it still lists; the file that it reads next names none of them."""
        del root
        return sorted(name for name, model in (await self._status()).items() if _is_there(model))

    async def prepare(self, model_format: str, root: Path) -> None:
        """Nothing: it imports nothing for a format."""

    async def load(self, model_id: str, folder: Path) -> None:
        """Write the model into the file, and have it read."""
        self._desired[model_id] = str(folder)
        try:
            found = await self._reload()
            fault = _fault(found.get(model_id))
        except BaseException:
            self._desired.pop(model_id, None)
            raise
        if fault is not None:
            self._desired.pop(model_id, None)
            error = ServerError(f"model {model_id!r}: {fault}", status=Status.INVALID_ARGUMENT)
            raise load_fault(self.name, error, frozenset())

    async def unload(self, model_id: str, folder: Path) -> None:
        """Take the model out of the file, and wait until the server has released it."""
        del folder
        self._desired.pop(model_id, None)
        found = await self._reload()
        deadline = asyncio.get_running_loop().time() + UNLOAD_BOUND_S
        while _is_there(found.get(model_id)):
            if asyncio.get_running_loop().time() > deadline:
                raise ServerError(f"{self.name} still has model {model_id!r}", status=Status.INTERNAL)
            await asyncio.sleep(LEAVING_S)
            found = await self._status()

    async def holds(self, model_id: str) -> bool:
        """As it reports."""
        return _fault((await self._status()).get(model_id)) is None

    async def size(self, model_id: str) -> int | None:
        """It reports none."""
        del model_id
        return None

    async def memory(self) -> int | None:
        """Of its processes."""
        return await asyncio.to_thread(self._memory.read)

    async def close(self) -> None:
        """Connections end with each call."""

    async def _reload(self) -> Mapping[str, Any]:
        """A reload that began after this call; those who call while one runs share the next."""
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._covered >= mine:
                return self._seen
            covers = self._asked
            await asyncio.to_thread(self._write)
            status, body = await self._call("POST", f"{self._url}/reload", self._reload_s)
            # A reload in which one model fails is refused as a whole; the status has the state of each.
            self._seen = body if status in {200, 201} else await self._status()
            self._covered = covers
            return self._seen

    async def _status(self) -> Mapping[str, Any]:
        status, body = await self._call("GET", self._url, READY_BOUND_S)
        if status != 200:
            text = f"{self.name} answers {status} for its configuration: {words(str(body.get('error', '')))}"
            raise ServerError(text, status=Status.UNAVAILABLE)
        return body

    async def _call(self, method: str, url: str, timeout_s: float) -> tuple[int, Mapping[str, Any]]:
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.request(method, url) as answer:
                body = json.loads(await answer.content.read(MAX_ANSWER_BYTES) or b"{}")
        except TimeoutError:
            raise ServerError(f"{self.name} did not answer in time", status=Status.DEADLINE_EXCEEDED) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ServerAwayError(f"{self.name} does not answer at {url}: {words(str(error))}") from error
        except ValueError:
            raise ServerError(f"{self.name} answers {url} with what is no JSON", status=Status.INTERNAL) from None
        return answer.status, body if isinstance(body, dict) else {}

    def _write(self) -> None:
        """The file, whole or not at all: the server may read it at any time."""
        models = [{"config": {"name": name, "base_path": path}} for name, path in self._desired.items()]
        making = self._config.with_name(f".{self._config.name}.writing")
        making.parent.mkdir(parents=True, exist_ok=True)
        making.write_text(json.dumps({"model_config_list": models}))
        os.replace(making, self._config)  # noqa: PTH105 - what it is


def layout(given: Given) -> Layout:
    """The files of a model. Source: spec/runtime-adapters.md 7.1."""
    tree = given.tree
    if tree.is_file:
        return Layout({f"1/{'model.onnx' if given.format == 'onnx' else tree.name}": tree.path})
    version, base = chosen_version(tree)
    return Layout({version: tree.at(base)})


def _versions(model: object) -> list[Mapping[str, Any]]:
    found = model.get("model_version_status") if isinstance(model, dict) else None
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _fault(model: object) -> str | None:
    """Why a model is not available; None: it is. Any version that is will do."""
    versions = _versions(model)
    if any(one.get("state") == "AVAILABLE" for one in versions):
        return None
    if not versions:
        return "it is not listed after the reload"
    status = versions[0].get("status")
    told = status if isinstance(status, dict) else {}
    return (
        f"{versions[0].get('state')}: {told.get('error_code')} {words(str(told.get('error_message') or ''))}".rstrip()
    )


def _is_there(model: object) -> bool:
    return any(one.get("state") not in _GONE for one in _versions(model))
