"""Which objects there must be in a cluster, from resources and configuration. Pure; one file for each kind of object.

Objects are plain dicts, as JSON has them, complete for server-side apply: other fields belong to other owners.

    read_config(layers, *, store_secret) -> Reading            config.py; `Reading.config` is None if a problem is fatal
    runtime_layer(runtime) -> Layer | None                     config.py; the runtime's annotation modelmesh.io/config
    as_served(runtime, config) -> Runtime                      the form to give to `declared.choose`
    check_runtime(runtime, config) -> tuple[Problem, ...]      render only what has none
    scaled_by(runtime) -> ScaledBy                             who sets the pods
    scaling(runtime) -> Scaling | None                         how an autoscaler does
    render_runtime(runtime, config, *, namespace, replicas, claims=(), storage_keys=(), owner=None, tls_authority=False)
    render_namespace(namespace, config, runtimes, *, controller, owner=None, service_monitors=False, store=None)

`config` of `render_runtime` has the runtime's own layer, that of `render_namespace` has not.
"""

from collections.abc import Iterable, Mapping, Sequence

from modelmesh.declared import Runtime
from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.render.autoscaler import ScaledBy, Scaling, render_autoscaler, scaled_by, scaling
from modelmesh.kubernetes.render.checks import check_runtime
from modelmesh.kubernetes.render.deployment import render_deployment
from modelmesh.kubernetes.render.disruption_budget import render_disruption_budget
from modelmesh.kubernetes.render.network_policy import render_network_policy
from modelmesh.kubernetes.render.objects import Object, Owner, as_served, deployment_name
from modelmesh.kubernetes.render.service import render_service
from modelmesh.kubernetes.render.service_monitor import render_service_monitor
from modelmesh.kubernetes.render.store_secret import StoreSecretError, read_store, render_store_secret
from modelmesh.kubernetes.render.type_constraints import render_type_constraints

__all__ = [
    "Object",
    "Owner",
    "ScaledBy",
    "Scaling",
    "StoreSecretError",
    "as_served",
    "check_runtime",
    "deployment_name",
    "read_store",
    "render_namespace",
    "render_runtime",
    "scaled_by",
    "scaling",
]


def render_runtime(
    runtime: Runtime,
    config: Config,
    *,
    namespace: str,
    replicas: int | None,
    claims: Sequence[str] = (),
    storage_keys: Iterable[str] = (),
    owner: Owner | None = None,
    tls_authority: bool = False,
) -> tuple[Object, ...]:
    """The Deployment of a runtime, its disruption budget if there is to be one, and its autoscaler if it asks for one and has pods.

    Args:
        runtime: That serves (`Runtime.serves`), without problems (`check_runtime`).
        config: With the layer of the runtime.
        namespace: Where its pods are.
        replicas: Of the Deployment. None: the field is not written, because an autoscaler owns it. An autoscaler leaves a
            Deployment alone that has none, so the first number above zero must be written (`Scaling.least`).
        claims: Names of claims to mount, in any order.
        storage_keys: Of the storage Secret, that its models name, in any order; read with `config.needed_keys_only`.
        owner: The resource of the runtime.
        tls_authority: Whether the Secret `config.tls_secret` has the key `ca.crt`.
    """
    served = as_served(runtime, config)
    deployment = render_deployment(
        served,
        config,
        namespace=namespace,
        replicas=replicas,
        claims=claims,
        storage_keys=storage_keys,
        owner=owner,
        tls_authority=tls_authority,
    )
    objects = [deployment]
    if config.most_unavailable:
        objects.append(render_disruption_budget(served, config, namespace=namespace, owner=owner))
    asked = scaling(runtime)
    if asked is not None and replicas != 0:
        objects.append(render_autoscaler(served, config, asked, namespace=namespace, owner=owner))
    return tuple(objects)


def render_namespace(
    namespace: str,
    config: Config,
    runtimes: Iterable[Runtime],
    *,
    controller: str,
    owner: Owner | None = None,
    service_monitors: bool = False,
    store: Mapping[str, str] | None = None,
) -> tuple[Object, ...]:
    """What the runtimes of a namespace share. Without runtimes only the Service, the policy and the monitor.

    Args:
        namespace: Of them.
        config: Of the namespace.
        controller: The namespace of the controller.
        runtimes: All that models of the namespace may choose, those that do not serve included.
        owner: Of the Service and what is there beside it: the Namespace, or the controller's Deployment.
        service_monitors: Whether the cluster has the kind ServiceMonitor.
        store: `data` of the controller's etcd Secret, to be copied; None in the controller's own namespace.

    Raises:
        StoreSecretError: The etcd Secret cannot be used.
    """
    served = [as_served(runtime, config) for runtime in runtimes]
    found = [render_service(namespace, config, owner)]
    if config.network_policies:
        found.append(render_network_policy(namespace, config, controller, owner))
    if service_monitors and config.service_monitors:
        found.append(render_service_monitor(namespace, config, owner))
    if any(runtime.multi_model for runtime in served):
        found.append(render_type_constraints(namespace, served))
        if store is not None:
            found.append(render_store_secret(namespace, config, store))
    return tuple(found)
