"""The containers of a runtime's author, with what the mesh adds to them. Source: spec/serving-controller.md 2.3."""

from collections.abc import Sequence

from modelmesh.declared import Runtime
from modelmesh.kubernetes.render.endpoints import SOCKETS, socket_folder
from modelmesh.kubernetes.render.objects import Object, items
from modelmesh.kubernetes.render.volumes import MODELS, Claim, claim_mounts

PRE_STOP: Object = {"preStop": {"httpGet": {"path": "/prestop", "port": 8090}}}
"""Holds a container until the instance beside it has drained."""

NO_CAPABILITIES: Object = {"capabilities": {"drop": ["ALL"]}}


def server_containers(runtime: Runtime, claims: Sequence[Claim]) -> list[Object]:
    """The containers of `spec.containers`. Fields of the author's stay as they are."""
    folder = socket_folder(runtime.management_endpoint, runtime.data_endpoint)
    added: list[Object] = [*claim_mounts(claims), *([{"name": SOCKETS, "mountPath": folder}] if folder else [])]
    found = []
    for container in items(runtime.body.get("containers")):
        own = [mount for mount in items(container.get("volumeMounts")) if mount is not None]
        # An author may mount the volume of models elsewhere as well.
        taken = {mount.get("mountPath") for mount in own}
        models = [] if "/models" in taken else [{"name": MODELS, "mountPath": "/models"}]
        found.append(
            {
                **{name: value for name, value in container.items() if value is not None},
                "volumeMounts": [*own, *models, *(mount for mount in added if mount["mountPath"] not in taken)],
                "lifecycle": PRE_STOP,
                "securityContext": container.get("securityContext") or NO_CAPABILITIES,
            }
        )
    return found
