"""The progress of a runtime's loads: `modelmesh.v1.RuntimeEvents`, which the instance calls once a second while a load runs.

A load that moves on is waited for beyond the runtime's time-out (`modelmesh.policy.load_patience`).
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from modelmesh._proto import runtime_events_pb2 as pb
from modelmesh.runtime.calls import Context, Method
from modelmesh.runtime.errors import ModelNotLoadedError
from modelmesh.runtime.service import service_methods
from modelmesh.values.load_progress import LoadProgress, LoadStage

if TYPE_CHECKING:
    from modelmesh.storage import Progress

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["RuntimeEvents"]


class LoadsAtWork:
    """The loads that run, and how far each is. On one event loop."""

    def __init__(self) -> None:
        self._now: dict[str, LoadProgress] = {}

    def get(self, model_id: str) -> LoadProgress | None:
        """How far a load is; None: none runs."""
        return self._now.get(model_id)

    @contextmanager
    def one(self, model_id: str) -> Iterator["Callable[[Progress], None]"]:
        """A load runs meanwhile; yields what takes the reports of its pull."""
        self._now[model_id] = LoadProgress(LoadStage.LISTING)
        try:
            yield lambda progress: self._pulled(model_id, progress)
        finally:
            self._now.pop(model_id, None)

    def loading(self, model_id: str) -> None:
        """The files are there, and the server works."""
        before = self._now.get(model_id)
        if before is not None:
            self._now[model_id] = replace(before, stage=LoadStage.LOADING)

    def _pulled(self, model_id: str, progress: "Progress") -> None:
        if model_id in self._now:
            stage = progress.stage.value
            self._now[model_id] = LoadProgress(
                LoadStage.LOADING if stage == "ready" else LoadStage(stage),
                bytes_done=progress.bytes_done,
                bytes_total=progress.bytes_total,
                files_done=progress.files_done,
                files_total=progress.files_total,
            )


def progress_methods(get: Callable[[str], Awaitable[LoadProgress | None]]) -> dict[str, Method]:
    """The methods of `modelmesh.v1.RuntimeEvents` by path. `get`: how far the load of a model is; None: none runs."""

    async def load_progress(request: pb.LoadProgressRequest, _context: Context) -> pb.LoadProgressResponse:
        found = await get(request.model_id)
        if found is None:
            raise ModelNotLoadedError(request.model_id)
        return pb.LoadProgressResponse(
            stage=found.stage.value,
            bytes_done=found.bytes_done,
            bytes_total=found.bytes_total,
            files_done=found.files_done,
            files_total=found.files_total,
        )

    return service_methods(DESCRIPTOR, {"LoadProgress": load_progress})
