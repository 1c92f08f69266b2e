"""Rollouts that begin and end at any time."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from modelmesh.management.calls import CallError
from modelmesh.testing.cluster import SimulatedInstance, set_rollout
from modelmesh.testing.world import World
from modelmesh.values.status import Status

STEPS = (5, 20, 50, 80)


class RolloutFaults:
    """Changes of vmodels whose shares are set by the leader."""

    def __init__(self, world: World, vmodels: Sequence[str]) -> None:
        self._world = world
        self._vmodels = vmodels
        self.kinds: Mapping[str, Callable[[], Awaitable[bool | None]]] = {"vmodel_rollout": self._roll_out}

    async def _roll_out(self) -> bool:
        """A model is rolled out for a name in steps of seconds, or what runs is ended."""
        rng = self._world.rng
        known = sorted(model for model, artefact in self._world.artefacts.items() if artefact.registered)
        model = rng.choice([*known, ""])
        steps = sorted(rng.sample(STEPS, rng.randint(1, len(STEPS))))
        vmodel, calls, minimum_ms = rng.choice(self._vmodels), rng.choice((1, 5)), rng.choice((0, 1000, 8000))
        errors = rng.choice((0, 10_000))

        async def work(instance: SimulatedInstance) -> None:
            try:
                await set_rollout(
                    instance,
                    vmodel,
                    model,
                    steps,
                    minimum_calls=calls,
                    minimum_ms=minimum_ms,
                    error_hundredths=errors,
                )
            except CallError as error:
                if error.status not in {Status.NOT_FOUND, Status.INVALID_ARGUMENT}:
                    raise  # else there is no such vmodel or model now, or it is the active one

        return await self._world.try_until_done(work)
