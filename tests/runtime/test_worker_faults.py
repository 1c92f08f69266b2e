"""Models in processes of their own that misbehave while others are called: only their own calls suffer, and it is said whose fault it is."""

import asyncio
import contextlib
import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.runtime import ModelSource
from modelmesh.runtime.pulled import PullingRuntime
from modelmesh.runtime.workers.memory import limit_bytes, may_grow_bytes, taken_bytes, takes_too_much
from modelmesh.runtime.workers.output import LONGEST_LINE, SHOWN_A_SECOND, Lines
from modelmesh.storage import DiskCache

MIB = 2**20
INFER = "/inference.GRPCInferenceService/ModelInfer"
TAKES = """
import sys

print("before", flush=True)
sys.stdin.readline()
kept = b"x" * (20 << 20)
print("after", flush=True)
sys.stdin.readline()
"""
MODEL = """
import os, signal, subprocess, sys, time
from pathlib import Path

import numpy

HOARD = []
FOLDER = Path(__file__).parent


def eat():
    HOARD.append(numpy.ones(2_000_000))  # 16 MB
    time.sleep(0.002)


def babble():
    for _ in range(2000):
        os.write(1, os.urandom(1000))
        os.write(2, b"\\x1b[2J\\xff" * 100)
    print("this is the end")


def write_to_the_runtime(garbage):
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, garbage)
        except OSError:
            pass
    time.sleep(60)


class Model:
    def __init__(self, folder):
        if (folder / "eats while loading").exists():
            while True:
                eat()
        if (folder / "hangs while loading").exists():
            time.sleep(60)

    def infer(self, inputs, parameters):
        do = parameters.get("do", "")
        if do == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if do == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if do == "hang":
            time.sleep(60)
        if do == "eat":
            while True:
                eat()
        if do == "leak":
            eat()
        if do == "babble":
            babble()
        if do == "garbage":
            write_to_the_runtime(b"\\xff" * 64)
        if do == "false error":
            # A head that is right, of the call that runs now (the first), and no JSON.
            write_to_the_runtime((7).to_bytes(4, "big") + bytes([8]) + (1).to_bytes(4, "big") + b"garbage")
        if do == "start another":
            started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            return {"y": numpy.array([float(started.pid)])}
        if do == "hang in the next load":
            (FOLDER / "hangs while loading").touch()
            os._exit(3)
        return {"y": inputs["x"] * 2}
"""


class TestGrowth:
    def test_the_one_that_has_grown_most_is_ended_if_all_together_have_grown_too_much(self):
        assert takes_too_much({"a": 60, "b": 39}, 100) is None
        assert takes_too_much({"a": 60, "b": 41}, 100) == "a"
        assert takes_too_much({"a": 10, "b": 91, "c": -50}, 100) == "b"
        assert takes_too_much({}, 0) is None

    @given(st.dictionaries(st.integers(), st.integers(-100, 100)), st.integers(0, 200))
    def test_who_has_not_grown_is_never_ended(self, grown, most):
        ended = takes_too_much(grown, most)
        assert ended is None or grown[ended] > 0

    @pytest.mark.parametrize(
        ("capacity", "machine", "growth"), [(100, 1000, 100), (100, 200, 50), (100, 130, 15), (100, 90, 10)]
    )
    def test_it_is_the_capacity_once_more_as_far_as_the_machine_has_it(self, capacity, machine, growth):
        assert may_grow_bytes(capacity, machine) == growth

    def test_memory_of_this_machine_and_of_a_process(self):
        """Of a fresh process: one that has run tests has freed memory, which it takes first."""
        assert limit_bytes() > 100 * MIB
        with subprocess.Popen(
            [sys.executable, "-c", TAKES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "before\n"
            before = taken_bytes(process.pid)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "after\n"
            assert 19 * MIB < taken_bytes(process.pid) - before < 22 * MIB
            process.stdin.close()
        assert taken_bytes(2**22 + 1) == 0


class TestLines:
    def test_lines_are_shown_when_they_are_whole(self):
        lines = Lines()
        assert lines.add(b"one\r\ntwo\nthr", 0.0) == ["one", "two"]
        assert lines.add(b"ee\n\n", 0.1) == ["three"]
        assert lines.add(b"rest", 0.2) == []
        assert lines.rest() == ["rest"]
        assert lines.rest() == []

    def test_nothing_of_it_is_obeyed_by_a_terminal(self):
        assert Lines().add("\x1b[2J\té\xa0\n".encode() + b"\xff\0\n", 0.0) == ["\\x1b[2J\té\\xa0", "\\xff\\x00"]

    def test_more_than_is_shown_in_a_second_is_counted(self):
        lines = Lines()
        assert len(lines.add(b"x\n" * (SHOWN_A_SECOND // 2), 5.1)) == SHOWN_A_SECOND // 2
        assert not lines.is_over
        assert lines.add(b"y\n", 5.9) == []
        assert lines.is_over
        assert lines.add(b"z\n", 6.0) == ["(2 bytes were not shown)", "z"]
        assert lines.add(b"y" * SHOWN_A_SECOND, 6.1) == []
        assert lines.rest() == [f"({SHOWN_A_SECOND} bytes were not shown)"]

    @given(st.lists(st.tuples(st.binary(max_size=20_000), st.floats(0, 3))))
    def test_any_output_is_shown_in_lines_that_are_not_too_long(self, outputs):
        lines = Lines()
        shown = [line for output, now_s in sorted(outputs, key=lambda one: one[1]) for line in lines.add(output, now_s)]
        for line in [*shown, *lines.rest()]:
            assert line.replace("\t", "").isprintable()
            assert len(line) <= 10 * LONGEST_LINE


@pytest.fixture
def folder(tmp_path):
    def make(name):
        made = tmp_path / "models" / name
        made.mkdir(parents=True)
        (made / "model.py").write_text(MODEL)
        return made

    return make


@pytest.fixture
async def server(tmp_path, served, folder):
    """A runtime with two models in processes of their own: one for the fault, and one that others call meanwhile."""
    for name in ("faulty", "other"):
        folder(name)
    runtime = PullingRuntime(
        cache=DiskCache(tmp_path / "cache", 1 << 30),
        models=tmp_path / "models",
        isolated=["python"],
        isolated_threads=2,
    )
    workers = runtime._workers
    workers.limits = replace(workers.limits, growth_bytes=100 * MIB, load_bytes=100 * MIB, hung_s=0.1, look_s=0.02)
    server = await served(runtime, listen="127.0.0.1:0")
    for name in ("faulty", "other"):
        await server.models.load(source(name))
    return server


def source(name):
    return ModelSource(name, type="python", path=name)


@pytest.fixture
async def ask(server):
    """Calls a model; returns its first number."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        rpc = channel.unary_unary(
            INFER,
            request_serializer=oip.ModelInferRequest.SerializeToString,
            response_deserializer=oip.ModelInferResponse.FromString,
        )

        async def call(model, do="", timeout=30.0):
            request = oip.ModelInferRequest(model_name=model, raw_input_contents=[np.array([21.0]).tobytes()])
            request.inputs.add(name="x", datatype="FP64", shape=[1])
            if do:
                request.parameters["do"].string_param = do
            answer = await rpc(request, timeout=timeout)
            return float(np.frombuffer(answer.raw_output_contents[0])[0])

        yield call


@pytest.fixture
async def others(ask):
    """Four callers of the other model, during the whole test. None of their calls may fail."""
    answers = []

    async def caller():
        while not over.is_set():
            answers.append(await ask("other"))

    over = asyncio.Event()
    callers = [asyncio.create_task(caller()) for _ in range(4)]
    yield answers
    seen = len(answers)
    await until(lambda: len(answers) > seen or any(one.done() for one in callers))  # they are served still
    over.set()
    await asyncio.gather(*callers)
    assert set(answers) == {42.0}


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details()


def is_there(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


HUNG = "was ended: all its 2 threads ran calls that had been given up 0 s before"
GROWN = r"was ended: it had grown by [\d.]+ [MG]iB since its load, and all processes together may grow by 100.0 MiB"


@pytest.mark.parametrize(
    ("do", "callers", "timeout", "said"),
    [
        ("kill", 1, 30, "was ended by SIGKILL"),
        ("hang", 2, 0.2, HUNG),
        ("stop", 2, 0.2, HUNG),
        ("eat", 1, 30, GROWN),
        ("garbage", 1, 30, r"sent a frame of kind \d+ and \d+ bytes, and was ended"),
        ("false error", 1, 30, "sent no JSON: .*, and was ended"),
    ],
)
async def test_a_fault_of_one_model_is_named_and_touches_no_other(
    server, ask, others, caplog, do, callers, timeout, said
):
    failed = await asyncio.gather(*(refused(ask("faulty", do, timeout)) for _ in range(callers)))
    if timeout < 1:
        assert {code for code, _ in failed} == {"DEADLINE_EXCEEDED"}
    else:
        assert failed[0][0] == "UNAVAILABLE"
        assert re.fullmatch(f"the process of model faulty {said}", failed[0][1])
    await until(lambda: re.search(rf"the process of model faulty {said}; its \d calls fail", caplog.text))
    assert await ask("faulty") == 42.0, "it was started again"
    assert "model other" not in caplog.text


async def test_a_leak_is_ended_before_it_takes_the_memory_of_the_machine(server, ask, others, caplog):
    async def leaks():
        for _ in range(1000):
            await ask("faulty", "leak")

    code, details = await refused(leaks())
    assert code == "UNAVAILABLE"
    assert re.fullmatch(f"the process of model faulty {GROWN}", details)
    assert await ask("faulty") == 42.0


async def test_a_model_that_prints_garbage_without_end_is_heard_no_more_than_a_little(server, ask, others, caplog):
    caplog.set_level(logging.INFO, "modelmesh.runtime")
    assert await ask("faulty", "babble") == 42.0
    await until(lambda: re.search(r"model faulty: \(\d+ bytes were not shown\)", caplog.text))
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("model faulty: ")]
    assert lines
    assert all(line.replace("\t", "").isprintable() for line in lines)
    assert sum(map(len, lines)) < 100 * SHOWN_A_SECOND


async def test_a_load_that_eats_memory_is_ended(server, folder, others):
    (folder("glutton") / "eats while loading").touch()
    with pytest.raises(Exception, match=r"the process of model glutton was ended: it took [\d.]+ [MG]iB") as caught:
        await server.models.load(source("glutton"))
    assert str(caught.value).endswith(", and may take 100.0 MiB while it loaded")


async def test_what_a_process_has_started_ends_with_it(server, ask, others):
    started = await ask("faulty", "start another")
    assert is_there(started)
    assert (await refused(ask("faulty", "kill")))[0] == "UNAVAILABLE"
    await until(lambda: not is_there(started))
    started = await ask("faulty", "start another")
    await server.models.unload("faulty")
    await until(lambda: not is_there(started))


async def test_a_start_that_hangs_is_ended_after_the_time_of_a_load(server, ask, others, caplog):
    workers = server.models._runtime._workers
    workers.limits = replace(workers.limits, load_s=0.3)
    assert (await refused(ask("faulty", "hang in the next load")))[1] == (
        "the process of model faulty ended with exit status 3"
    )
    await until(lambda: "could not be started again: its load took more than 0 s" in caplog.text)
    Path(server.models._runtime.models, "faulty", "hangs while loading").unlink()
    assert await ask("faulty") == 42.0
