"""The simulator notices when a model or a call may end any number of runtimes."""

from dataclasses import replace

import pytest

from modelmesh.control import decide
from modelmesh.control.copies import losses
from modelmesh.policy import attempt
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.faults import Faults
from modelmesh.testing.world import World

INSTANCES = 6
TIMES = 4


def played(fault: str) -> list[str]:
    """What a few seeds of a cluster find in which nothing else goes wrong."""

    async def main(seed: int) -> list[str]:
        world = World.drawn(seed)
        for _ in range(INSTANCES):
            await world.add()
        for artefact in world.artefacts.values():
            await world.register(artefact)
        faults = Faults(world)
        for _ in range(TIMES):
            await faults.kinds[fault]()
        assert world.poison.deaths > 0
        await world.close()
        return world.poison.problems

    return [problem for seed in range(1, 5) for problem in run_virtual(main(seed))]


@pytest.mark.parametrize("fault", ["model_poisoned", "call_poisoned"])
def test_nothing_is_found_as_it_is(fault: str) -> None:
    assert played(fault) == []


@pytest.mark.parametrize(("fault", "problem"), [("model_poisoned", "loads of"), ("call_poisoned", "calls for")])
def test_a_model_that_never_rests(monkeypatch: pytest.MonkeyPatch, fault: str, problem: str) -> None:
    for module in (attempt, losses):
        monkeypatch.setattr(module, "resting", lambda *_: None)
    assert any(f"deaths: {problem}" in found for found in played(fault))


def test_a_call_that_is_sent_on_however_many_runtimes_ended_under_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(journey, model, cluster, **given):
        return attempt.next_step(replace(journey, lost=()), model, cluster, **given)

    monkeypatch.setattr(decide, "next_step", forgetful)
    assert any("deaths: poisoned call" in found for found in played("call_poisoned"))
