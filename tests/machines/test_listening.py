"""Who answers is not hung, however long its calls take; who answers nothing is, soon."""

from modelmesh.machines.listening import QUESTIONS, QUESTIONS_IN_LOADS, Listening


def test_one_question_that_is_not_answered_says_nothing() -> None:
    listening = Listening()
    assert not listening.unanswered(loads=0)
    assert listening.doubts
    listening.answered()
    assert not listening.doubts
    assert not listening.unanswered(loads=0)


def test_several_in_a_row_say_that_it_stands_still() -> None:
    listening = Listening()
    assert [listening.unanswered(loads=0) for _ in range(QUESTIONS + 1)] == [False] * (QUESTIONS - 1) + [True, True]


def test_a_runtime_that_loads_gets_more_time() -> None:
    listening = Listening()
    said = [listening.unanswered(loads=1) for _ in range(QUESTIONS_IN_LOADS)]
    assert said == [False] * (QUESTIONS_IN_LOADS - 1) + [True]


def test_that_its_loads_have_ended_is_seen_at_the_next_question() -> None:
    listening = Listening()
    assert not any(listening.unanswered(loads=1) for _ in range(QUESTIONS))
    assert listening.unanswered(loads=0)
