"""The settings of a controller."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one controller.

    Attributes:
        namespace: Its own.
        namespace_scope: It serves its own namespace only, and reads no other.
        store_secret: Secret of its namespace that says where the meshes keep their state.
        inference_services: Whether it reads InferenceServices; else their models are left alone.
        cluster_runtimes: Whether it reads ClusterServingRuntimes.
        roll: Whether Deployments of another controller are updated, which replaces their pods.
    """

    namespace: str
    namespace_scope: bool = False
    store_secret: str = "model-serving-etcd"  # noqa: S105 - the name of a Secret
    inference_services: bool = True
    cluster_runtimes: bool = True
    roll: bool = False
