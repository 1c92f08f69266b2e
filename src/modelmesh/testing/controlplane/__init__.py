"""A real Kubernetes control plane without containers, for tests.

`namespaces` gives a command a network of its own, `plane` starts etcd, the API server and what belongs to it there, and
`api` is a client. `modelmesh.testing.kubelet` is a node for it, whose pods are processes. All of it needs root.

    python -m modelmesh.testing.controlplane.namespaces pytest …

    async with ControlPlane(program, folder) as plane, plane.api() as api:
        await plane.kubectl("apply", "-f", "deployment.yaml")
"""
