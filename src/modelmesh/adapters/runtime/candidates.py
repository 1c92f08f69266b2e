"""A runtime without a configured address: the first candidate that answers is used."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from modelmesh.adapters.addresses import UNIX
from modelmesh.adapters.runtime.grpc_runtime import GrpcRuntime
from modelmesh.ports import ModelSource, RuntimeCallError, RuntimeLoaded, RuntimeState, RuntimeStatus
from modelmesh.values.ids import ModelId
from modelmesh.values.load_progress import LoadProgress
from modelmesh.values.memory import Memory
from modelmesh.values.status import Status

_log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 3.0
"""An endpoint that takes a question and does not answer must not keep us from the others."""


class RuntimeCandidates:
    """`ports.Runtime` at the first of several endpoints whose runtime is READY.

    Each `status` asks them in order until one is; after that it is that one alone.

    Args:
        targets: Endpoints, `host:port` or `unix:///path`, at least one.
        calls_target: Where inference calls go; None: where management is.
        found: Called with the endpoint, before `status` returns.
    """

    def __init__(
        self, targets: Sequence[str], found: Callable[[str], Awaitable[None]], *, calls_target: str | None = None
    ) -> None:
        self._candidates = [GrpcRuntime(target, calls_target=calls_target) for target in targets]
        self._found = found

    async def status(self) -> RuntimeStatus:
        """Ask `runtimeStatus` of each candidate. A runtime that starts or fails counts where none is READY."""
        if len(self._candidates) == 1:
            return await self._candidates[0].status()
        answer: RuntimeStatus | None = None
        error: RuntimeCallError | None = None
        for candidate in self._candidates:
            if (why := strange_folder(candidate.target)) is not None:
                error = RuntimeCallError(Status.FAILED_PRECONDITION, why)
                continue
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    said = await candidate.status()
            except TimeoutError:
                error = RuntimeCallError(Status.DEADLINE_EXCEEDED, f"{candidate.target} does not answer")
            except RuntimeCallError as failed:
                # A refused connection is less informative than an answer elsewhere.
                error = failed if error is None or failed.status is not Status.UNAVAILABLE else error
            else:
                if said.state is RuntimeState.READY:
                    await self._choose(candidate)
                    return said
                answer = answer or said
        if answer is not None:
            return answer
        raise error or RuntimeCallError(Status.UNAVAILABLE, "no endpoint of a runtime is known")

    async def _choose(self, chosen: GrpcRuntime) -> None:
        others = [candidate for candidate in self._candidates if candidate is not chosen]
        self._candidates = [chosen]
        _log.info("the runtime is at %s", chosen.target)
        for other in others:
            await other.close()
        await self._found(chosen.target)

    async def answers(self) -> None:
        """As `ports.Runtime`."""
        await self._candidates[0].answers()

    async def load(self, source: ModelSource) -> RuntimeLoaded:
        """As `ports.Runtime`."""
        return await self._candidates[0].load(source)

    async def unload(self, model: ModelId) -> None:
        """As `ports.Runtime`."""
        await self._candidates[0].unload(model)

    async def predict_size(self, source: ModelSource) -> Memory | None:
        """As `ports.Runtime`."""
        return await self._candidates[0].predict_size(source)

    async def measure_size(self, model: ModelId) -> Memory:
        """As `ports.Runtime`."""
        return await self._candidates[0].measure_size(model)

    async def progress(self, model: ModelId) -> LoadProgress | None:
        """As `ports.Runtime`."""
        return await self._candidates[0].progress(model)

    async def close(self) -> None:
        """Close every connection; running calls fail UNAVAILABLE."""
        for candidate in self._candidates:
            await candidate.close()


def strange_folder(target: str) -> str | None:
    """Why a socket that the operator did not name is not used; None if it may be used.

    In a folder that every user may make, another user may have been there first, and would be taken for the runtime.
    """
    if not target.startswith(UNIX):
        return None
    folder = Path(target.removeprefix(UNIX)).parent
    try:
        owner = folder.stat(follow_symlinks=False).st_uid
    except OSError:
        return None  # there is no socket
    if owner in {0, os.geteuid()}:
        return None
    return (
        f"{folder}, where the runtime's socket should be, belongs to user {owner}, who may listen there in its place;"
        " remove it, or name the runtime's endpoint (INTERNAL_GRPC_SOCKET_PATH, INTERNAL_GRPC_PORT)"
    )
