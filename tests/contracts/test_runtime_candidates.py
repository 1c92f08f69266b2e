"""Where the runtime is looked for: several addresses, and who may stand behind one."""

import asyncio
import contextlib
import os
import socket

import pytest

from modelmesh.adapters.runtime.candidates import RuntimeCandidates, strange_folder
from modelmesh.ports import ModelSource, RuntimeCallError, RuntimeState
from modelmesh.testing.model_paths import size_path
from modelmesh.testing.scripted_runtime import ScriptedRuntime
from modelmesh.values.status import Status


async def test_the_first_candidate_that_is_ready_is_the_runtime(tmp_path):
    found = []

    async def note(target):
        found.append(target)

    async def asked():
        # Channels that failed once try again after a pause of their own.
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(RuntimeCallError):
                    return (await runtime.status()).state
                await asyncio.sleep(0.02)

    async def asked_until_ready():
        async with asyncio.timeout(10):
            while await asked() is not RuntimeState.READY:
                await asyncio.sleep(0.02)

    sockets = [f"unix://{tmp_path}/{name}.sock" for name in ("nobody", "starting", "late", "other")]
    runtime = RuntimeCandidates(sockets, note)
    with pytest.raises(RuntimeCallError) as caught:
        await runtime.status()
    assert caught.value.status is Status.UNAVAILABLE
    async with ScriptedRuntime(listen=sockets[1], never_ready=True):
        assert await asked() is RuntimeState.STARTING
        async with ScriptedRuntime(listen=sockets[2]) as late, ScriptedRuntime(listen=sockets[3]) as other:
            assert found == []
            await asked_until_ready()
            assert len(found) == 1
            await runtime.load(ModelSource("m1", "example", size_path(1000), ""))
            assert "m1" in (late if found == [sockets[2]] else other).loaded
    with pytest.raises(RuntimeCallError):
        await runtime.status()  # it stays where it was found
    assert len(found) == 1
    await runtime.close()


async def test_a_candidate_that_never_answers_does_not_hide_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("modelmesh.adapters.runtime.candidates.ANSWER_TIMEOUT_S", 0.3)
    found = []

    async def note(target):
        found.append(target)

    with socket.socket(socket.AF_UNIX) as deaf:  # connections to it are made, and nobody takes them
        deaf.bind(f"{tmp_path}/deaf.sock")
        deaf.listen()
        async with ScriptedRuntime() as script:
            runtime = RuntimeCandidates([f"unix://{tmp_path}/deaf.sock", script.address], note)
            assert (await runtime.status()).state is RuntimeState.READY
            assert found == [script.address]
            await runtime.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
def test_a_socket_in_another_users_folder_is_not_called(tmp_path, monkeypatch):
    target = f"unix://{tmp_path}/mmesh/grpc.sock"
    assert strange_folder(target) is None, "nobody is there"
    (tmp_path / "mmesh").mkdir()
    assert strange_folder(target) is None
    assert strange_folder("127.0.0.1:8085") is None
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    os.chown(tmp_path / "mmesh", 4712, -1)
    assert "belongs to user 4712" in (strange_folder(target) or "")
    (tmp_path / "link").symlink_to(tmp_path)
    os.lchown(tmp_path / "link", 4712, -1)
    assert "belongs to user 4712" in (strange_folder(f"unix://{tmp_path}/link/grpc.sock") or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
async def test_a_runtime_in_another_users_folder_is_passed_over(tmp_path):
    (tmp_path / "mmesh").mkdir()
    async with ScriptedRuntime(listen=f"unix://{tmp_path}/mmesh/grpc.sock") as stranger:
        os.chown(tmp_path / "mmesh", 4712, -1)

        async def note(_: str) -> None:
            raise AssertionError

        runtime = RuntimeCandidates([stranger.address, f"unix://{tmp_path}/nobody.sock"], note)
        with pytest.raises(RuntimeCallError, match="belongs to user 4712"):
            await runtime.status()
        await runtime.close()
