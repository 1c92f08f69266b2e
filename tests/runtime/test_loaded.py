"""Loads, unloads and bytes of `LoadedModels`. Each test's runtime says when its author's methods go on."""

import asyncio
import gc
import random
import threading
import weakref
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from modelmesh.runtime import CapacityError, LoadedModels, ModelNotLoadedError, ModelRuntime, ModelSource
from modelmesh.runtime.errors import LoadEndedError, LoadError
from modelmesh.runtime.loaded import call


class Model:
    def __init__(self, size_bytes):
        self.size_bytes = size_bytes


class Scripted(ModelRuntime[Model]):
    """Sizes are the path. `gates` hold loads and unloads of a model."""

    capacity_bytes = 1000
    default_size_bytes = 100

    def __init__(self, *, predicts=False):
        self.story = []
        self.gates = {}
        self.predicts = predicts

    async def _step(self, name, id_):
        self.story.append(f"{name} {id_}")
        if (name, id_) in self.gates:
            await self.gates[name, id_].wait()

    def gate(self, name, id_):
        self.gates[name, id_] = asyncio.Event()
        return self.gates[name, id_]

    async def load(self, source):
        await self._step("load", source.id)
        if source.path == "broken":
            raise ValueError("broken")
        model = Model(int(source.path))
        model.id = source.id
        return model

    def size(self, model):
        return model.size_bytes

    def predict_size(self, source):
        return int(source.path) if self.predicts else None

    async def unload(self, model):
        await self._step("unload", model.id)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def source(id_="m1", size_bytes=100):
    return ModelSource(id_, "test", str(size_bytes))


async def settle():
    for _ in range(20):
        await asyncio.sleep(0.002)


async def test_loads_of_one_id_are_one_load(pool):
    runtime = Scripted()
    models = LoadedModels(runtime, pool)
    answers = await asyncio.gather(*(models.load(source()) for _ in range(5)))
    assert [answer.size_bytes for answer in answers] == [100] * 5
    assert runtime.story == ["load m1"]
    assert models.accounted_bytes() == 100


async def test_all_that_wait_see_the_failure_and_the_next_load_tries_again(pool):
    runtime = Scripted()
    models = LoadedModels(runtime, pool)
    broken = ModelSource("m1", "test", "broken")
    results = await asyncio.gather(*(models.load(broken) for _ in range(3)), return_exceptions=True)
    assert [repr(result) for result in results] == ["ValueError('broken')"] * 3
    with pytest.raises(ValueError, match="broken"):
        await models.load(broken)
    assert runtime.story == ["load m1"] * 2
    assert models.accounted_bytes() == 0


@pytest.mark.parametrize("raised", [StopIteration, SystemExit, KeyboardInterrupt])
async def test_what_asyncio_cannot_carry_is_answered_like_a_bug(pool, raised):
    class Odd(ModelRuntime[Model]):
        def load(self, source):
            raise raised

    with pytest.raises(RuntimeError, match=raised.__name__):
        await asyncio.wait_for(LoadedModels(Odd(), pool).load(source()), 5)


async def test_an_unload_does_not_take_a_load_that_came_after_it(pool):
    # 1 a load fails while an unload waits for it; 2 another load of the id begins at once; it must stay.
    runtime = Scripted()
    models = LoadedModels(runtime, pool)
    gate = runtime.gate("load", "m1")

    async def load_twice():
        with pytest.raises(ValueError, match="broken"):
            await models.load(ModelSource("m1", "test", "broken"))
        await models.load(source())

    loads = asyncio.create_task(load_twice())
    await settle()
    unload = asyncio.create_task(models.unload("m1"))
    await settle()
    gate.set()
    await asyncio.gather(loads, unload)
    assert models.ids() == ["m1"]


async def test_a_load_during_an_unload_waits_for_it(pool):
    # 1 unload begins and is held; 2 load arrives; 3 unload goes on; 4 only then the load begins.
    runtime = Scripted()
    models = LoadedModels(runtime, pool)
    await models.load(source())
    gate = runtime.gate("unload", "m1")
    unload = asyncio.create_task(models.unload("m1"))
    await settle()
    load = asyncio.create_task(models.load(source()))
    await settle()
    assert runtime.story == ["load m1", "unload m1"]
    gate.set()
    assert await unload
    await load
    assert runtime.story == ["load m1", "unload m1", "load m1"]


async def test_an_unload_during_a_load_waits_for_it(pool):
    runtime = Scripted()
    models = LoadedModels(runtime, pool)
    gate = runtime.gate("load", "m1")
    load = asyncio.create_task(models.load(source()))
    await settle()
    unload = asyncio.create_task(models.unload("m1"))
    await settle()
    gate.set()
    await load
    assert await unload
    assert runtime.story == ["load m1", "unload m1"]
    assert models.ids() == []


async def test_an_unknown_model_is_not_unloaded(pool):
    assert not await LoadedModels(Scripted(), pool).unload("m1")


async def test_unloads_of_one_id_are_one_unload(pool):
    runtime = Scripted()
    models = LoadedModels(runtime, pool)
    await models.load(source())
    await asyncio.gather(*(models.unload("m1") for _ in range(3)))
    assert runtime.story == ["load m1", "unload m1"]


async def test_another_source_replaces_the_model(pool):
    runtime = Scripted()
    models = LoadedModels(runtime, pool)
    await models.load(source(size_bytes=100))
    assert (await models.load(source(size_bytes=200))).size_bytes == 200
    assert runtime.story == ["load m1", "unload m1", "load m1"]


async def test_a_load_nobody_waits_for_is_cancelled(pool):
    runtime = Scripted()
    models = LoadedModels(runtime, pool)
    gate = runtime.gate("load", "m1")
    loads = [asyncio.create_task(models.load(source())) for _ in range(2)]
    await settle()
    loads[0].cancel()
    await settle()
    assert models.accounted_bytes() == 0
    assert not loads[1].done()  # one still waits
    loads[1].cancel()
    await settle()
    assert not await models.unload("m1")
    gate.set()
    await models.load(source())
    assert runtime.story == ["load m1", "load m1"]


async def test_a_load_in_a_thread_runs_to_its_end_and_is_unloaded(pool):
    held, unloaded = threading.Event(), []

    class InThread(ModelRuntime[Model]):
        def load(self, source):
            held.wait(10)
            return Model(10)

        def unload(self, model):
            unloaded.append(model.size_bytes)

    models = LoadedModels(InThread(), pool)
    load = asyncio.create_task(models.load(source()))
    await settle()
    load.cancel()
    await settle()
    unload = asyncio.create_task(models.unload("m1"))
    await settle()
    assert not unload.done()
    held.set()
    await unload
    assert unloaded == [10]
    assert models.ids() == []
    assert models.accounted_bytes() == 0


async def test_no_more_loads_run_than_the_runtime_permits(pool):
    runtime = Scripted()
    runtime.loading_concurrency = 2
    models = LoadedModels(runtime, pool)
    gates = [runtime.gate("load", f"m{number}") for number in range(4)]
    loads = [asyncio.create_task(models.load(source(f"m{number}"))) for number in range(4)]
    await settle()
    assert runtime.story == ["load m0", "load m1"]
    for gate in gates:
        gate.set()
    await asyncio.gather(*loads)
    assert len(models.ids()) == 4


class TestCapacity:
    async def test_a_predicted_size_that_does_not_fit_is_refused_before_the_load(self, pool):
        runtime = Scripted(predicts=True)
        models = LoadedModels(runtime, pool)
        await models.load(source("m1", 700))
        assert await models.tell_size(source("m2", 400)) == 400
        with pytest.raises(CapacityError, match=r"'m2' needs 400 bytes, but 300 of 1000 bytes are free") as caught:
            await models.load(source("m2", 400))
        assert (caught.value.wanted_bytes, caught.value.free_bytes) == (400, 300)
        with pytest.raises(CapacityError):
            await models.load(source("m3", 1001))  # fits nowhere, whatever the mesh was told
        assert runtime.story == ["load m1"]

    async def test_a_prediction_that_the_mesh_never_heard_refuses_nothing(self, pool):
        """The mesh had made room for its own guess, and got the same refusal for as long as it remembered it."""

        class Careful(Scripted):
            def predict_size(self, source):
                return int(source.path) + 50

        models = LoadedModels(Careful(), pool)
        await models.load(source("m1", 700))
        assert (await models.load(source("m2", 300))).size_bytes == 300
        assert models.accounted_bytes() == 1000

    async def test_a_measured_size_that_does_not_fit_is_unloaded_again(self, pool):
        runtime = Scripted()
        models = LoadedModels(runtime, pool)
        await models.load(source("m1", 700))
        with pytest.raises(CapacityError, match="needs 400 bytes, but 300 of 1000"):
            await models.load(source("m2", 400))
        assert runtime.story == ["load m1", "load m2", "unload m2"]
        assert models.accounted_bytes() == 700
        # The size is known now: the next time nothing is loaded for nothing.
        with pytest.raises(CapacityError):
            await models.load(source("m2", 400))
        assert runtime.story == ["load m1", "load m2", "unload m2"]
        assert await models.predict_size(source("m2", 400)) == 400

    async def test_running_loads_count(self, pool):
        runtime = Scripted(predicts=True)
        models = LoadedModels(runtime, pool)
        gate = runtime.gate("load", "m1")
        load = asyncio.create_task(models.load(source("m1", 700)))
        await settle()
        await models.tell_size(source("m2", 400))
        with pytest.raises(CapacityError):
            await models.load(source("m2", 400))
        gate.set()
        await load

    async def test_a_load_waits_for_bytes_that_are_being_given_back(self, pool):
        # 1 m1 leaves, held; 2 m2, which fits without m1, waits; 3 m1 has gone; 4 m2 loads.
        runtime = Scripted(predicts=True)
        models = LoadedModels(runtime, pool)
        await models.load(source("m1", 700))
        gate = runtime.gate("unload", "m1")
        unload = asyncio.create_task(models.unload("m1"))
        await settle()
        load = asyncio.create_task(models.load(source("m2", 900)))
        await settle()
        assert "load m2" not in runtime.story
        assert models.accounted_bytes() <= 1000
        gate.set()
        await asyncio.gather(unload, load)
        assert models.ids() == ["m2"]

    async def test_a_size_nobody_knows_is_the_default(self, pool):
        class Silent(Scripted):
            def size(self, model):
                return 0

        assert (await LoadedModels(Silent(), pool).load(source())).size_bytes == 100

    async def test_a_prediction_that_fails_does_not_fail_the_load(self, pool):
        class Moody(Scripted):
            def predict_size(self, source):
                raise RuntimeError("no idea")

        assert (await LoadedModels(Moody(), pool).load(source(size_bytes=7))).size_bytes == 7


class TestUse:
    async def test_only_loaded_models_can_be_used(self, pool):
        runtime = Scripted()
        models = LoadedModels(runtime, pool)
        gate = runtime.gate("load", "m1")
        load = asyncio.create_task(models.load(source()))
        await settle()
        with pytest.raises(ModelNotLoadedError, match="model 'm1' is not loaded"), models.use("m1"):
            pass
        gate.set()
        await load
        with models.use("m1") as use:
            assert use.model.size_bytes == 100

    async def test_an_unload_waits_for_calls_but_lets_no_new_ones_in(self, pool):
        runtime = Scripted()
        models = LoadedModels(runtime, pool)
        await models.load(source())
        with models.use("m1"):
            unload = asyncio.create_task(models.unload("m1"))
            await settle()
            assert runtime.story == ["load m1"]
            with pytest.raises(ModelNotLoadedError), models.use("m1"):
                pass
        await unload
        assert runtime.story == ["load m1", "unload m1"]

    async def test_an_unload_does_not_wait_for_ever(self, pool):
        runtime = Scripted()
        models = LoadedModels(runtime, pool, grace_s=0.02)
        await models.load(source())
        with models.use("m1"):
            await models.unload("m1")
        assert runtime.story == ["load m1", "unload m1"]


class Lingering(Executor):
    """A pool whose threads never come to forget what they ran, as one that is out of turns just after an answer."""

    def __init__(self, pool):
        self.pool = pool
        self.ran = []

    def submit(self, function, /, *arguments):
        future = self.pool.submit(function, *arguments)
        self.ran.append((function, arguments, future))
        return future


async def test_an_unloaded_model_is_really_gone(pool):
    class Plain(ModelRuntime[Model]):
        capacity_bytes = 1000

        def load(self, source):
            return Model(100)

        def size(self, model):
            return model.size_bytes

        def unload(self, model):
            assert model.itself is model

    lingering = Lingering(pool)
    models = LoadedModels(Plain(), lingering)
    await models.load(source())
    with models.use("m1") as use:
        model = weakref.ref(use.model)
        use.model.itself = use.model  # a cycle, which only a collection frees
        await call(lingering, use.model.__eq__, use.model)
    gc.disable()
    try:
        await models.unload("m1")
        assert model() is None
    finally:
        gc.enable()
    assert len(lingering.ran) >= 5


async def test_a_model_that_cannot_be_unloaded_stays_accounted_until_it_can(pool):
    class Stuck(Scripted):
        stuck = True

        async def unload(self, model):
            if self.stuck:
                raise RuntimeError("device busy")

    runtime = Stuck()
    models = LoadedModels(runtime, pool)
    await models.load(source())
    with pytest.raises(RuntimeError, match="device busy"):
        await models.unload("m1")
    assert models.accounted_bytes() == 100
    with pytest.raises(ModelNotLoadedError), models.use("m1"):
        pass
    with pytest.raises(LoadError, match="could not be unloaded: device busy"):
        await models.purge()
    runtime.stuck = False
    assert await models.unload("m1")
    assert models.accounted_bytes() == 0


async def test_a_purge_ends_loads_and_unloads_all(pool):
    runtime = Scripted()
    models = LoadedModels(runtime, pool)
    await models.load(source("m1"))
    runtime.gate("load", "m2")
    load = asyncio.create_task(models.load(source("m2")))
    await settle()
    await models.purge()
    with pytest.raises(LoadEndedError, match="'m2' was given up"):
        await load
    assert (models.ids(), models.accounted_bytes()) == ([], 0)


@pytest.mark.parametrize("seed", range(8))
async def test_any_order_of_calls_keeps_the_books(seed, pool):  # noqa: C901 - a random walk has many branches
    """Loads, unloads, cancellations, uses and purges in random order, while capacity is short."""
    draw = random.Random(seed)
    busy = {}

    class Checking(Scripted):
        loading_concurrency = 3
        loads = 0

        async def _step(self, name, id_):
            assert busy.setdefault(id_, name) == name, f"{name} of {id_} while {busy[id_]} runs"
            self.loads += name == "load"
            assert self.loads <= 3
            try:
                await asyncio.sleep(draw.random() / 200)
                if draw.random() < 0.1:
                    raise RuntimeError(f"{name} fails")
            finally:
                self.loads -= name == "load"
                del busy[id_]

    runtime = Checking(predicts=draw.random() < 0.5)
    models = LoadedModels(runtime, pool, grace_s=0.05)
    sizes = {f"m{number}": draw.randrange(100, 700) for number in range(5)}

    async def one():
        id_ = draw.choice(list(sizes))
        try:
            match draw.randrange(10):
                case 0 | 1 | 2 | 3 | 4:
                    await models.load(source(id_, sizes[id_]))
                case 5 | 6:
                    await models.unload(id_)
                case 7 | 8:
                    with models.use(id_) as use:
                        assert use.model.id == id_
                        await asyncio.sleep(draw.random() / 500)
                case 9 if draw.random() < 0.3:
                    await models.purge()
        except (CapacityError, ModelNotLoadedError, LoadEndedError, LoadError, RuntimeError):
            pass
        assert 0 <= models.accounted_bytes() <= runtime.capacity_bytes

    tasks = []
    for _ in range(100):
        tasks.append(asyncio.create_task(one()))
        await asyncio.sleep(draw.random() / 500)
        if draw.random() < 0.1:
            draw.choice(tasks).cancel()
        assert models.accounted_bytes() <= runtime.capacity_bytes
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    problems = [result for result in results if isinstance(result, Exception)]
    assert not problems
    while models._entries:
        try:
            await models.purge()
        except LoadError:
            continue  # an unload failed on purpose; the next one may not
    assert models.accounted_bytes() == 0
