"""`modelmesh.v1.Admin/ListTenants`: what tenants have, and their quotas."""

from collections.abc import Mapping

from modelmesh._proto import admin_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.control.view.tenants import TenantUsage
from modelmesh.management.calls import Call, Method


class TenantCalls:
    """The handler of the method."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {"modelmesh.v1.Admin/ListTenants": Method(pb.ListTenantsRequest, self.list_tenants)}

    async def list_tenants(self, _: Call, _request: pb.ListTenantsRequest) -> pb.ListTenantsResponse:
        """All tenants with a quota, a registered model or a copy."""
        return pb.ListTenantsResponse(tenants=[_tenant(one) for one in self._plane.tenants.usage()])


def _tenant(usage: TenantUsage) -> pb.Tenant:
    quota = usage.quota
    return pb.Tenant(
        name=quota.name,
        models=usage.models,
        models_limit=quota.models,
        loaded_bytes=usage.loaded.bytes,
        loaded_bytes_limit=None if quota.loaded is None else quota.loaded.bytes,
        calls_per_second_limit=quota.calls_per_second,
        calls_at_once_limit=quota.calls_at_once,
    )
