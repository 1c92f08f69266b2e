"""`modelmesh.v1.Admin/GetUsage`: what each tenant has used of each model, at all instances together."""

from collections.abc import Mapping

from modelmesh._proto import admin_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.management.calls import Call, Method
from modelmesh.policy.usage import added_up
from modelmesh.values.dataplane import Consumption


class UsageCalls:
    """The handler of the method."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {"modelmesh.v1.Admin/GetUsage": Method(pb.GetUsageRequest, self.get_usage)}

    async def get_usage(self, _: Call, request: pb.GetUsageRequest) -> pb.GetUsageResponse:
        """Add up what the instances counted."""
        plane = self._plane

        answers = await plane.others.ask(
            lambda address, timeout_ms: plane.peers.count_usage(address, timeout_ms=timeout_ms)
        )
        here = (plane.identity.instance, (plane.dataplane.consumption(), plane.started_ms))
        counted = sorted([here, *answers.given], key=lambda one: one[0])
        tenant = request.tenant if request.HasField("tenant") else None
        found = (used for _, (usages, _) in counted for used in usages)
        return pb.GetUsageResponse(
            usages=[wire_usage(used) for used in added_up(found, tenant=tenant, model=request.model_id)],
            countings=[pb.Counting(instance_id=instance, since_ms=since_ms) for instance, (_, since_ms) in counted],
            silent_instance_ids=answers.silent,
        )


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
