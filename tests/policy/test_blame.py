"""Which models are suspected when a runtime ended under calls."""

from modelmesh.policy.blame import MOST_SUSPECTS, UnderWay, suspects
from modelmesh.values.ids import ModelId

POISON, POPULAR = ModelId("poison"), ModelId("popular")


def test_the_one_that_lost_the_greatest_part_of_its_calls() -> None:
    assert suspects([UnderWay(POPULAR, lost=40, answered=900), UnderWay(POISON, lost=1, answered=3)]) == (POISON,)


def test_a_model_whose_calls_are_answered_is_not_suspected_because_its_runtime_was_restarted() -> None:
    assert suspects([UnderWay(POPULAR, lost=5, answered=10_000)]) == ()


def test_models_of_which_nothing_else_is_known_are_suspected_together() -> None:
    fresh = [UnderWay(ModelId(f"m{number}"), lost=1, answered=0) for number in range(100)]
    assert len(suspects(fresh)) == MOST_SUSPECTS
    assert suspects([]) == ()
