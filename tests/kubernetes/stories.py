"""Stories of simulated Kubernetes clusters, on virtual time."""

from collections.abc import Awaitable, Callable

from modelmesh.testing.clock import run_virtual
from modelmesh.testing.kubernetes_cluster import KubernetesCluster

Story = Callable[[KubernetesCluster], Awaitable[None]]


def play(story: Story, **options) -> None:
    """Run a story with a cluster of its own; `options` are those of `KubernetesCluster`."""

    async def main() -> None:
        cluster = KubernetesCluster(**options)
        try:
            await story(cluster)
        finally:
            await cluster.stop()

    run_virtual(main())
