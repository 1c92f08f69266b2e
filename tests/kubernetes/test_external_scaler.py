"""What KEDA is told, by gRPC: a stock client against the controller's scaler, with the resources in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from test_start import memory, running, until

from modelmesh._proto import external_scaler_pb2 as pb
from modelmesh.kubernetes.adapters.scaler import METRIC, ExternalScaler, serve_scaler
from modelmesh.kubernetes.demand import Demand, Trend, Why
from modelmesh.kubernetes.kinds import ENDPOINT_SLICE, PREDICTOR, SERVING_RUNTIME
from modelmesh.kubernetes.loop.controller import Controller
from modelmesh.kubernetes.loop.demands import Sample
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.kubernetes_cluster import OWN, KubernetesCluster

WAIT_S = 20
_RUNTIME = {
    "supportedModelFormats": [{"name": "fake", "autoSelect": True}],
    "multiModel": True,
    "grpcEndpoint": "port:8085",
    "containers": [{"name": "server", "image": "server:1"}],
}
_PREDICTOR = {
    "metadata": {"name": "m", "namespace": OWN},
    "spec": {"modelType": {"name": "fake"}, "storage": {"path": "p"}},
}


class Keda:
    """The calls that KEDA makes."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")

    async def call(self, method: str, request: Any, answer: Any) -> Any:
        called = self.channel.unary_unary(
            f"/externalscaler.ExternalScaler/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return await called(request, timeout=WAIT_S)

    async def active(self, runtime: str = "r", namespace: str = OWN) -> bool:
        answer = await self.call("IsActive", reference(runtime, namespace), pb.IsActiveResponse)
        return bool(answer.result)

    async def pods(self, runtime: str = "r") -> float:
        request = pb.GetMetricsRequest(scaledObjectRef=reference(runtime), metricName=METRIC)
        (value,) = (await self.call("GetMetrics", request, pb.GetMetricsResponse)).metricValues
        assert (value.metricName, value.metricValue) == (METRIC, int(value.metricValueFloat))
        return float(value.metricValueFloat)


def reference(runtime: str, namespace: str = OWN) -> pb.ScaledObjectRef:
    metadata = {"runtime": runtime} if runtime else {}
    return pb.ScaledObjectRef(name="scaled", namespace=namespace, scalerMetadata=metadata)


@asynccontextmanager
async def asked() -> AsyncIterator[tuple[Any, Any, Keda]]:
    """An API server in memory with a runtime, a controller that leads, and KEDA."""
    api = memory()
    api.put(SERVING_RUNTIME, {"metadata": {"name": "r", "namespace": OWN}, "spec": _RUNTIME})
    async with running(api) as one:
        await until(lambda: one.scaler_port != 0 and one._controller is not None and one._controller.synced)
        keda = Keda(one.scaler_port)
        try:
            yield api, one, keda
        finally:
            await keda.channel.close(None)


def sampled(controller: Controller, pods: int) -> None:
    now_ms = controller.demands._clock.monotonic_ms()
    controller.demands._samples[OWN, "r"] = Sample(Demand(pods, Why.CALLS), pods, Trend(), 1, {}, now_ms)
    controller.demands.stir()


async def test_a_runtime_is_active_while_a_model_needs_it() -> None:
    async with asked() as (api, one, keda):
        specs = await keda.call("GetMetricSpec", reference("r"), pb.GetMetricSpecResponse)
        assert [(spec.metricName, spec.targetSize, spec.targetSizeFloat) for spec in specs.metricSpecs] == [
            (METRIC, 1, 1.0)
        ]
        assert (await keda.active(), await keda.pods()) == (False, 0.0)
        stream = keda.channel.unary_stream(
            "/externalscaler.ExternalScaler/StreamIsActive",
            request_serializer=pb.ScaledObjectRef.SerializeToString,
            response_deserializer=pb.IsActiveResponse.FromString,
        )(reference("r"), timeout=WAIT_S)
        assert (await stream.read()).result is False
        api.put(PREDICTOR, _PREDICTOR)
        assert (await stream.read()).result is True
        assert (await keda.active(), await keda.pods()) == (True, 1.0)  # there are no pods that could be asked
        sampled(one._controller, 7)
        assert await keda.pods() == 7.0
        api.remove(PREDICTOR, "m", OWN)
        assert (await stream.read()).result is False
        assert await keda.pods() == 0.0


@pytest.mark.parametrize(
    ("runtime", "namespace", "code"),
    [
        ("", OWN, grpc.StatusCode.INVALID_ARGUMENT),
        ("nobody", OWN, grpc.StatusCode.NOT_FOUND),
        ("r", "elsewhere", grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_what_cannot_be_answered_says_why(runtime: str, namespace: str, code: grpc.StatusCode) -> None:
    async with asked() as (_, _, keda):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await keda.active(runtime, namespace)
        assert raised.value.code() is code


async def test_instances_that_do_not_answer_are_no_reason_for_fewer_pods() -> None:
    async with asked() as (api, one, keda):
        api.put(PREDICTOR, _PREDICTOR)
        labels = {"kubernetes.io/service-name": "modelmesh-serving", "modelmesh-service": "modelmesh-serving"}
        api.put(
            ENDPOINT_SLICE,
            {
                "metadata": {"name": "slice", "namespace": OWN, "labels": labels},
                "ports": [{"name": "grpc", "port": 1}],
                "endpoints": [{"addresses": ["127.0.0.1"]}],
            },
        )
        await until(lambda: OWN in one._controller.meshes and one._controller.meshes[OWN].reachable)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await keda.pods()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_who_does_not_lead_has_no_figures() -> None:
    server, port = await serve_scaler(ExternalScaler(lambda: None), "127.0.0.1:0")
    keda = Keda(port)
    try:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await keda.active()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        await keda.channel.close(None)
        await server.stop(None)


async def test_a_port_that_is_taken_is_said() -> None:
    server, port = await serve_scaler(ExternalScaler(lambda: None), "127.0.0.1:0")
    try:
        with pytest.raises(OSError, match="--scaler-addr"):
            await serve_scaler(ExternalScaler(lambda: None), f"127.0.0.1:{port}")
    finally:
        await server.stop(None)


def test_the_figure_is_that_of_the_instances() -> None:
    async def story() -> None:
        k = KubernetesCluster()
        controller = k.start()
        k.runtime("r", annotations={"serving.kserve.io/autoscalerClass": "external"})
        k.predictor("m")
        await asyncio.sleep(60)
        scaler = ExternalScaler(lambda: controller)
        for calls in k.calls.values():
            calls.reported = {name: {"calls_at_once_hundredths": 4_000} for name in k.meshes[OWN].instances}
        await asyncio.sleep(20)
        answer = await scaler.metrics(pb.GetMetricsRequest(scaledObjectRef=reference("r")))
        assert answer.metricValues[0].metricValueFloat == 3.0
        await k.stop()

    run_virtual(story())
