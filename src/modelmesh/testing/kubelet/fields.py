"""What a container's environment and files may refer to: variables, fields of the pod, resources. Pure."""

import math
import re
from collections.abc import Mapping
from typing import Any

from modelmesh.kubernetes.quantities import parse_quantity
from modelmesh.testing.kubelet.images import NotYetError

Object = dict[str, Any]

CAPACITY: Mapping[str, str] = {"cpu": "64", "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi"}
"""Of a node; nothing enforces it but the scheduler."""

_REFERENCE = re.compile(r"\$\$|\$\(([^)]+)\)")
_MAPPED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


def expand(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value if there is one; `$$` becomes `$`."""
    return _REFERENCE.sub(lambda found: "$" if found[1] is None else environment.get(found[1], found[0]), text)


def pod_field(pod: Object, path: str, *, address: str, node: str, node_address: str) -> str:
    """A field of the downward API.

    Raises:
        NotYetError: It is not one that this node knows.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    if found := _MAPPED.fullmatch(path):
        return str((metadata.get(found[1]) or {}).get(found[2], ""))
    known = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "status.podIP": address,
        "status.podIPs": address,
        "status.hostIP": node_address,
        "spec.nodeName": node,
        "spec.serviceAccountName": spec.get("serviceAccountName") or "default",
    }
    if path not in known:
        raise NotYetError(f"the field {path} is not known")
    return str(known[path])


def resource_field(pod: Object, reference: Object, container: str) -> str:
    """A container's request or limit in whole units of its divisor; the node's capacity if it has none."""
    part, _, resource = reference["resource"].partition(".")
    named = reference.get("containerName") or container
    owner = next(one for one in pod["spec"]["containers"] if one["name"] == named)
    amount = ((owner.get("resources") or {}).get(part) or {}).get(resource) or CAPACITY[resource]
    divisor = parse_quantity(reference.get("divisor") or "1") or 1
    return str(math.ceil((parse_quantity(amount) or 0) / divisor))
