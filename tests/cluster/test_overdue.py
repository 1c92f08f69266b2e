"""A caller who waits no longer for a load: what it is told, and that the load goes on."""

import asyncio

from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import SimulatedCluster, register
from modelmesh.values.dataplane import Fail, Overdue, Resolution
from modelmesh.values.ids import ModelId, Token, VModelId
from modelmesh.values.status import Status


def test_the_answer_says_how_the_load_stands_and_the_load_goes_on() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=3)
        instance = await cluster.add("i1")
        await register(instance, "m")
        answers: dict[Token, Resolution] = {}
        instance.plane.dataplane.resolve = answers.update  # type: ignore[method-assign]

        def told(number: int, model: str, vmodel: str | None = None, *, until_deadline: bool = False) -> Fail:
            token = Token(number)
            name = None if vmodel is None else VModelId(vmodel)
            instance.plane.requests.overdue(Overdue(token, ModelId(model), name, until_deadline))
            answer = answers[token]
            assert isinstance(answer, Fail)
            assert answer.status is (Status.DEADLINE_EXCEEDED if until_deadline else Status.UNAVAILABLE)
            assert int(dict(answer.trailers)["grpc-retry-pushback-ms"]) >= 500
            return answer

        late = told(0, "m", until_deadline=True)
        assert late.message == "Deadline Exceeded: the load of model m has not begun"
        assert not instance.plane.decider.model_view(ModelId("m"), None).copies
        assert told(1, "m").message == "the load of model m has not begun"
        assert "the model of vmodel v is being looked up" in told(2, "", "v").message
        assert told(3, "nothing").message == "the load of model nothing has not begun"
        async with asyncio.timeout(60):
            while not instance.plane.decider.model_view(ModelId("m"), None).copies:
                await asyncio.sleep(0.001)
            assert "model m is being loaded at i1 since" in told(4, "m").message
            while not cluster.holders("m"):
                await asyncio.sleep(0.1)
        await cluster.stop()

    run_virtual(main())
