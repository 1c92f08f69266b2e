"""A Kubernetes node whose pods are processes, for tests end to end without containers.

A pod has a network namespace and an address of its own. A container is a process in it, whose root is the machine's root
under an overlay, with the volumes of the pod where they are mounted. An image is a row of a table: the program that it
starts, its environment, and folders that lie over the root. Probes, hooks, signals, grace periods, restarts, the downward
API and changes of mounted Secrets and ConfigMaps work as they do at a kubelet. There are no logs and no exec by the API
(`Node.log` reads a log), no limits of CPU and memory, no kube-proxy and no DNS.

    images = Images({r"modelmesh:.*": Image(entrypoint=("/opt/kserve/mmesh/start.sh",), layers=(folder,))})
    async with Node(api, images, folder=folder):
        ...

Needs root, and `modelmesh.testing.controlplane.namespaces` around the process.
"""

from modelmesh.testing.kubelet.images import Image, Images
from modelmesh.testing.kubelet.node import Node

__all__ = ["Image", "Images", "Node"]
