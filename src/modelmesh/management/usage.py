"""`modelmesh.v1.Admin/GetUsage`: what each tenant has used of each model, at all instances together."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from modelmesh._proto import admin_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.management.calls import Call, Method
from modelmesh.policy.usage import added_up
from modelmesh.ports import PeerUnreachableError
from modelmesh.values.dataplane import Consumption
from modelmesh.values.ids import InstanceId

ASKED = 256
"""Other instances that are asked; each counts for itself."""

AT_A_TIME = 32
ANSWER_MS = 2_000

_Counted = tuple[InstanceId, Sequence[Consumption], int]


class UsageCalls:
    """The handler of the method."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {"modelmesh.v1.Admin/GetUsage": Method(pb.GetUsageRequest, self.get_usage)}

    async def get_usage(self, _: Call, request: pb.GetUsageRequest) -> pb.GetUsageResponse:
        """Add up what the instances counted. Each is asked for two seconds at most."""
        tenant = request.tenant if request.HasField("tenant") else None
        counted, silent = await self._counted()
        usages = added_up((one for _, found, _ in counted for one in found), tenant=tenant, model=request.model_id)
        return pb.GetUsageResponse(
            usages=[wire_usage(one) for one in usages],
            countings=[pb.Counting(instance_id=instance, since_ms=since_ms) for instance, _, since_ms in counted],
            silent_instance_ids=silent,
        )

    async def _counted(self) -> tuple[list[_Counted], list[InstanceId]]:
        plane = self._plane
        own = plane.identity.instance
        others = [entry.instance for entry in plane.decider.cluster_view().instances if entry.instance != own]
        turns = asyncio.Semaphore(AT_A_TIME)
        found = await asyncio.gather(*(self._ask(instance, turns) for instance in others[:ASKED]))
        silent = [*(one for one, answer in zip(others, found, strict=False) if answer is None), *others[ASKED:]]
        here = (own, plane.dataplane.consumption(), plane.started_ms)
        return sorted([here, *_answered(found)], key=lambda one: one[0]), sorted(silent)

    async def _ask(self, instance: InstanceId, turns: asyncio.Semaphore) -> _Counted | None:
        address = self._plane.routing.address(instance)
        if address is None:
            return None
        async with turns:
            try:
                found, since_ms = await self._plane.peers.count_usage(address, timeout_ms=ANSWER_MS)
            except PeerUnreachableError:
                return None
        return instance, found, since_ms


def _answered(found: Iterable[_Counted | None]) -> list[_Counted]:
    return [answer for answer in found if answer is not None]


def wire_usage(used: Consumption) -> pb.Usage:
    """In wire form."""
    return pb.Usage(
        tenant=used.tenant,
        model_id=used.model,
        calls=used.calls,
        failed_calls=used.failed,
        call_ms=used.call_us // 1000,
        bytes=used.size,
        loads=used.loads,
    )
