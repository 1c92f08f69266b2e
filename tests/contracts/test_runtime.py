"""The contract of `ports.Runtime`, over the fake and over gRPC to a scripted server."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from modelmesh._proto.runtime_events_pb2 import LoadProgressResponse
from modelmesh.adapters.runtime import grpc_runtime
from modelmesh.adapters.runtime.grpc_runtime import GrpcRuntime
from modelmesh.ports import ModelSource, RuntimeCallError, RuntimeState
from modelmesh.testing.fake_runtime import FakeRuntime
from modelmesh.testing.model_paths import size_path
from modelmesh.testing.scripted_runtime import LEGACY_MANAGEMENT, ScriptedError, ScriptedRuntime
from modelmesh.values.memory import Memory
from modelmesh.values.status import Status

WAIT = 30  # seconds; more than anything here takes on a busy machine
PORT_TO_METHOD = {
    "status": "runtimeStatus",
    "load": "loadModel",
    "unload": "unloadModel",
    "predict_size": "predictModelSize",
    "measure_size": "modelSize",
    "progress": "LoadProgress",
}


class WallClock:
    def now_ms(self):
        return time.time_ns() // 1_000_000

    def monotonic_ms(self):
        return time.monotonic_ns() // 1_000_000

    async def sleep(self, ms):
        await asyncio.sleep(ms / 1000)


class OverFake:
    """A FakeRuntime; knobs as the suite turns them."""

    def __init__(self, **script):
        self.script = FakeRuntime(WallClock(), **script)

    @asynccontextmanager
    async def runtime(self):
        yield self.script

    def hold(self):
        self.script.hold_loads()

    def release(self):
        self.script.release_loads()

    def fail_next(self, method, status, message):
        self.script.fail_next(method, status, message)

    def garble(self, method):
        self.script.garbage.add(method)

    def fail_loads(self, model, status, message):
        self.script.load_failures[model] = RuntimeCallError(status, message)

    def tell_progress(self):
        self.script.tells = True

    def count(self, method):
        return self.script.counts[method]

    async def die(self):
        self.script.crash()

    async def restart(self):
        self.script.restart()


class OverGrpc:
    """A ScriptedRuntime behind a GrpcRuntime."""

    def __init__(self, listen="127.0.0.1:0", **script):
        self.script = ScriptedRuntime(listen=listen, load_answers_size=True, **script)

    @asynccontextmanager
    async def runtime(self):
        async with self.script as server:
            runtime = GrpcRuntime(server.address)
            yield runtime
            await runtime.close()

    def hold(self):
        self.script.hold()

    def release(self):
        self.script.release()

    def fail_next(self, method, status, message):
        self.script.fail_next(PORT_TO_METHOD[method], status, message)

    def garble(self, method):
        self.script.garbage.add(PORT_TO_METHOD[method])

    def fail_loads(self, model, status, message):
        self.script.load_failures[model] = ScriptedError(status, message)

    def tell_progress(self):
        self.script.tells_progress = True
        self.script.progress["m1"] = LoadProgressResponse(stage="loading", bytes_done=1000, bytes_total=1000)

    def count(self, method):
        return self.script.counts[PORT_TO_METHOD[method]]

    async def die(self):
        await self.script.die()

    async def restart(self):
        await self.script.start()


@pytest.fixture(params=["fake", "grpc over tcp", "grpc over a unix socket"])
def make(request, tmp_path):
    def build(**script):
        if request.param == "fake":
            return OverFake(**script)
        return OverGrpc(f"unix://{tmp_path}/r.sock" if "unix" in request.param else "127.0.0.1:0", **script)

    return build


def source(model="m1", size_bytes=1000, load_ms=0):
    return ModelSource(model, "example", size_path(size_bytes, load_ms), "")


async def until(condition):
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.005)


async def test_status_carries_every_parameter(make):
    under = make(
        capacity_bytes=10_000, default_size_bytes=700, loading_concurrency=3, load_timeout_ms=1234, max_concurrency=2
    )
    async with under.runtime() as runtime:
        status = await runtime.status()
    assert status.state is RuntimeState.READY
    assert (status.capacity, status.default_size) == (Memory(10_000), Memory(700))
    assert (status.loading_concurrency, status.load_timeout_ms, status.limits_concurrency) == (3, 1234, True)


@pytest.mark.parametrize(
    ("knob", "state"), [({"never_ready": True}, RuntimeState.STARTING), ({"failing": True}, RuntimeState.FAILING)]
)
async def test_states_other_than_ready(make, knob, state):
    async with make(**knob).runtime() as runtime:
        assert (await runtime.status()).state is state


async def test_starting_then_ready(make):
    async with make(start_ms=50).runtime() as runtime:
        assert (await runtime.status()).state is RuntimeState.STARTING
        await asyncio.sleep(0.06)
        assert (await runtime.status()).state is RuntimeState.READY


async def test_load_measure_unload(make):
    async with make(max_concurrency=4).runtime() as runtime:
        loaded = await runtime.load(source(size_bytes=4321))
        assert (loaded.size, loaded.max_concurrency) == (Memory(4321), 4)
        assert await runtime.measure_size("m1") == Memory(4321)
        await runtime.unload("m1")
        with pytest.raises(RuntimeCallError) as caught:
            await runtime.measure_size("m1")
        assert caught.value.status is Status.NOT_FOUND


async def test_ready_drops_what_is_loaded(make):
    async with make().runtime() as runtime:
        await runtime.load(source())
        await runtime.status()
        with pytest.raises(RuntimeCallError, match="NOT_FOUND"):
            await runtime.measure_size("m1")


async def test_a_failed_load_has_status_and_message(make):
    under = make()
    under.fail_loads("m1", Status.INVALID_ARGUMENT, "m1.joblib is no model")
    async with under.runtime() as runtime:
        with pytest.raises(RuntimeCallError) as caught:
            await runtime.load(source())
    assert (caught.value.status, caught.value.message) == (Status.INVALID_ARGUMENT, "m1.joblib is no model")


async def test_a_path_may_ask_for_one_failure(make):
    async with make().runtime() as runtime:
        failing = ModelSource("m1", "example", "FAIL_disk on fire", "")
        with pytest.raises(RuntimeCallError) as caught:
            await runtime.load(failing)
        assert (caught.value.status, caught.value.message) == (Status.INTERNAL, "disk on fire")
        await runtime.load(failing)


async def test_unload_of_an_unknown_model_succeeds(make):
    async with make().runtime() as runtime:
        await runtime.unload("never seen")


async def test_not_found_at_unload_is_success():
    async with OverGrpc(unload_not_found=True).runtime() as runtime:
        await runtime.unload("never seen")


async def test_other_unload_errors_are_raised(make):
    under = make()
    under.fail_next("unload", Status.INTERNAL, "stuck")
    async with under.runtime() as runtime:
        with pytest.raises(RuntimeCallError, match="INTERNAL: stuck"):
            await runtime.unload("m1")


async def test_predicted_size(make):
    async with make(predicts=lambda true_bytes: true_bytes + 5).runtime() as runtime:
        assert await runtime.predict_size(source(size_bytes=100)) == Memory(105)


async def test_no_prediction(make):
    async with make().runtime() as runtime:
        assert await runtime.predict_size(source()) is None


async def test_a_failed_prediction_is_none_and_asked_again(make):
    under = make(predicts=lambda true_bytes: true_bytes)
    under.fail_next("predict_size", Status.INTERNAL, "later")
    async with under.runtime() as runtime:
        assert await runtime.predict_size(source(size_bytes=77)) is None
        assert await runtime.predict_size(source(size_bytes=77)) == Memory(77)


async def test_unimplemented_prediction_is_remembered_until_the_next_status():
    under = OverGrpc()
    async with under.runtime() as runtime:
        assert await runtime.predict_size(source()) is None
        assert await runtime.predict_size(source()) is None
        assert under.count("predict_size") == 1
        await runtime.status()
        await runtime.predict_size(source())
        assert under.count("predict_size") == 2


async def test_a_slow_prediction_is_given_up_after_500_ms():
    under = OverGrpc(predicts=lambda true_bytes: true_bytes)
    under.script.hold("predictModelSize")
    async with under.runtime() as runtime:
        begin = time.monotonic()
        assert await runtime.predict_size(source()) is None
        assert 0.4 < time.monotonic() - begin < 3
        under.script.release("predictModelSize")


async def test_loads_of_one_model_join(make):
    under = make()
    under.hold()
    async with under.runtime() as runtime:
        loads = [asyncio.create_task(runtime.load(source())) for _ in range(5)]
        await until(lambda: under.count("load") == 5)
        under.release()
        answers = await asyncio.gather(*loads)
    assert {answer.size for answer in answers} == {Memory(1000)}
    assert under.script.load_counts["m1"] == 1


async def test_a_cancelled_load_is_cancelled_at_the_runtime(make):
    under = make()
    under.hold()
    async with under.runtime() as runtime:
        load = asyncio.create_task(runtime.load(source()))
        await until(lambda: under.script.load_counts["m1"] == 1)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        under.release()
        await runtime.unload("m1")
        with pytest.raises(RuntimeCallError, match="NOT_FOUND"):
            await runtime.measure_size("m1")


@pytest.mark.parametrize("method", ["status", "load", "measure_size"])
async def test_a_malformed_answer_is_an_error_that_says_so(make, method):
    under = make()
    async with under.runtime() as runtime:
        await runtime.load(source())
        under.garble(method)
        calls = {
            "status": runtime.status,
            "load": lambda: runtime.load(source()),
            "measure_size": lambda: runtime.measure_size("m1"),
        }
        with pytest.raises(RuntimeCallError, match=r"the runtime's answer to \w+ is malformed") as caught:
            await calls[method]()
    assert caught.value.status is Status.INTERNAL


async def test_a_malformed_prediction_is_none(make):
    under = make(predicts=lambda true_bytes: true_bytes)
    under.garble("predict_size")
    async with under.runtime() as runtime:
        assert await runtime.predict_size(source()) is None


async def test_a_dying_runtime_is_unavailable_and_comes_back_empty(make):
    under = make()
    under.hold()
    async with under.runtime() as runtime:
        load = asyncio.create_task(runtime.load(source("m2")))
        await until(lambda: under.script.load_counts["m2"] == 1)
        await under.die()
        with pytest.raises(RuntimeCallError) as caught:
            await load
        assert caught.value.status in {Status.UNAVAILABLE, Status.CANCELLED}
        with pytest.raises(RuntimeCallError) as caught:
            await runtime.load(source())
        assert caught.value.status is Status.UNAVAILABLE
        under.release()
        await under.restart()
        async with asyncio.timeout(WAIT):
            while True:
                try:
                    await runtime.measure_size("m1")
                except RuntimeCallError as error:
                    if error.status is Status.NOT_FOUND:
                        break
                await asyncio.sleep(0.02)


async def test_calls_after_close_are_unavailable(make):
    async with make().runtime() as runtime:
        await runtime.close()
        with pytest.raises(RuntimeCallError) as caught:
            await runtime.load(source())
        assert caught.value.status is Status.UNAVAILABLE


async def test_a_sign_of_life_is_any_answer_and_nobody_gives_none(make):
    under = make()
    async with under.runtime() as runtime:
        await runtime.answers()
        await under.die()
        with pytest.raises(RuntimeCallError) as caught:
            await runtime.answers()
        assert caught.value.status is Status.UNAVAILABLE


@pytest.mark.parametrize("where", ["management", "inference"])
async def test_who_takes_the_question_and_says_nothing_stands_still(monkeypatch, where):
    monkeypatch.setattr(grpc_runtime, "ANSWER_TIMEOUT_S", 0.3)

    async def swallow(reader, writer):
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    nobody = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    async with ScriptedRuntime() as server:
        targets = (nobody, server.address) if where == "management" else (server.address, nobody)
        runtime = GrpcRuntime(targets[0], calls_target=targets[1])
        with pytest.raises(RuntimeCallError) as caught:
            await runtime.answers()
        assert caught.value.status is Status.DEADLINE_EXCEEDED
        await runtime.close()
    silent.close()
    await silent.wait_closed()


async def test_closing_fails_running_calls_unavailable():
    under = OverGrpc()
    under.hold()
    async with under.runtime() as runtime:
        load = asyncio.create_task(runtime.load(source()))
        await until(lambda: under.script.load_counts["m1"] == 1)
        await runtime.close()
        with pytest.raises(RuntimeCallError) as caught:
            await load
        assert caught.value.status is Status.UNAVAILABLE


async def test_a_runtime_nobody_answers_at_is_unavailable(tmp_path):
    runtime = GrpcRuntime(f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(RuntimeCallError) as caught:
        await runtime.status()
    assert caught.value.status is Status.UNAVAILABLE
    await runtime.close()


async def test_the_legacy_service_name_is_found_and_kept():
    under = OverGrpc(service_name=LEGACY_MANAGEMENT)
    async with under.runtime() as runtime:
        assert (await runtime.status()).state is RuntimeState.READY
        assert (await runtime.load(source(size_bytes=9))).size == Memory(9)
        await runtime.unload("m1")


async def test_neither_service_name_is_unimplemented():
    async with OverGrpc(service_name="other.Service").runtime() as runtime:
        with pytest.raises(RuntimeCallError) as caught:
            await runtime.status()
        assert caught.value.status is Status.UNIMPLEMENTED


async def test_injection_paths_are_passed_on():
    under = OverGrpc(method_infos={"b.S/M": [1, 2], "a.S/M": []}, allow_any_method=True)
    async with under.runtime() as runtime:
        status = await runtime.status()
    assert status.injection_paths == (("a.S/M", ()), ("b.S/M", (1, 2)))
    assert status.allows_any_method


async def test_lies_pass_through_unchanged(make):
    async with make(reported_size=lambda _: 3).runtime() as runtime:
        assert (await runtime.load(source(size_bytes=500))).size == Memory(3)
        assert await runtime.measure_size("m1") == Memory(3)
    async with make(capacity_bytes=0).runtime() as runtime:
        assert (await runtime.status()).capacity == Memory(0)


async def test_the_progress_of_a_load_that_runs(make):
    under = make()
    async with under.runtime() as runtime:
        assert await runtime.progress("m1") is None, "it tells nothing"
        under.tell_progress()
        await runtime.status()
        under.hold()
        load = asyncio.create_task(runtime.load(source(size_bytes=1000)))
        await until(lambda: under.script.load_counts["m1"] == 1)
        told = await runtime.progress("m1")
        assert (told.stage.value, told.bytes_done, told.bytes_total) == ("loading", 1000, 1000)
        assert await runtime.progress("other") is None
        under.garble("progress")
        assert await runtime.progress("m1") is None
        under.release()
        await load


class TestFakeOnly:
    async def test_overflow_can_be_refused(self):
        fake = FakeRuntime(WallClock(), capacity_bytes=1000, overflow="refuse")
        await fake.load(source("m1", 600))
        with pytest.raises(RuntimeCallError, match=r"'m2' needs 500 bytes, 400 are free"):
            await fake.load(source("m2", 500))
        assert fake.peak_bytes == 600

    async def test_overflow_can_kill(self):
        fake = FakeRuntime(WallClock(), capacity_bytes=1000, overflow="crash")
        await fake.load(source("m1", 600))
        with pytest.raises(RuntimeCallError, match="out of memory"):
            await fake.load(source("m2", 500))
        with pytest.raises(RuntimeCallError, match="UNAVAILABLE"):
            await fake.status()
        fake.restart()
        assert (await fake.status()).state is RuntimeState.READY
        assert fake.loaded == {}

    async def test_a_crash_fails_those_that_wait_for_the_same_load(self):
        fake = FakeRuntime(WallClock())
        fake.hold_loads()
        loads = [asyncio.create_task(fake.load(source())) for _ in range(3)]
        await until(lambda: fake.load_counts["m1"] == 1)
        fake.restart()
        results = await asyncio.gather(*loads, return_exceptions=True)
        assert [str(result) for result in results] == ["UNAVAILABLE: the runtime died"] * 3
        assert fake.load_counts["m1"] == 1
