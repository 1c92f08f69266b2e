"""What happens next to a request: the table of `spec/request-path.md` 2, row by row."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.attempt import (
    GiveUp,
    Journey,
    LastFailure,
    LoadHere,
    Refuse,
    ReturnLast,
    SendTo,
    ServeHere,
    next_step,
)
from modelmesh.values.dataplane import Hop, Outcome
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.memory import Memory
from modelmesh.values.records import CopyState, FailureKind, FailureRecord, MemberRecord
from modelmesh.values.status import Status
from modelmesh.values.view import ClusterView, Copy, Failure, InstanceView, ModelView

NOW_MS = 10_000_000
WINDOW_MS = 450_000


def copy(instance: str, *, ready: bool = True, load: int = 1, since: int = 0, unlisted: bool = False) -> Copy:
    return Copy(
        InstanceId(instance),
        CopyState.LOADED if ready else CopyState.LOADING,
        since,
        LoadId(load),
        Memory(10),
        Revision(1),
        Revision(1),
        Revision(1),
        unlisted,
    )


def failure(instance: str, *, message="boom", ago_ms=1000, kind=FailureKind.BAD_MODEL) -> Failure:
    record = FailureRecord(kind, message, 1, NOW_MS - ago_ms, NOW_MS - ago_ms + 900_000, Revision(1))
    return Failure(InstanceId(instance), record)


def cluster(*names: str, own="a", lost=(), draining=(), down=()) -> ClusterView:
    entries = tuple(
        InstanceView(
            InstanceId(name),
            MemberRecord(
                address=name,
                capacity=Memory(1000),
                loading_slots=1,
                draining=name in draining,
                runtime_ready=name not in down,
            ),
            reachable=name not in lost,
        )
        for name in names
    )
    return ClusterView(InstanceId(own), Revision(7), entries)


def step(view: ClusterView, *, copies=(), failures=(), journey: Journey | None = None, seed=0):
    return next_step(
        journey or Journey(),
        ModelView(ModelId("m"), tuple(copies), tuple(failures)),
        view,
        size=Memory(10),
        now_ms=NOW_MS,
        failure_window_ms=WINDOW_MS,
        rng=Random(seed),
    )


def failed(outcome: Outcome, instance="b", *, load: int | None = 1, times=1, status=Status.UNAVAILABLE) -> Journey:
    journey = Journey()
    for _ in range(times):
        journey = journey.failed(
            LastFailure(InstanceId(instance), outcome, status, "why"), None if load is None else LoadId(load)
        )
    return journey


def test_a_cold_model_is_placed() -> None:
    answers = {type(step(cluster("a", "b"), seed=seed)) for seed in range(20)}
    assert answers == {LoadHere, SendTo}


def test_a_ready_copy_elsewhere_is_hit() -> None:
    answer = step(cluster("a", "b"), copies=[copy("b")])
    assert isinstance(answer, SendTo)
    assert (answer.instance, answer.hop) == ("b", Hop.HIT)


def test_the_own_copy_serves_when_it_is_the_only_one_or_the_caller_spreads_calls() -> None:
    assert isinstance(step(cluster("a", "b"), copies=[copy("a")]), ServeHere)
    balanced = step(cluster("a", "b"), copies=[copy("a"), copy("b")], journey=Journey(balanced=True))
    assert isinstance(balanced, ServeHere)


def test_a_load_that_runs_is_joined_the_oldest_first() -> None:
    assert isinstance(step(cluster("a", "b"), copies=[copy("a", ready=False)]), ServeHere)
    answer = step(cluster("a", "b", "c"), copies=[copy("b", ready=False, since=9), copy("c", ready=False, since=5)])
    assert isinstance(answer, SendTo)
    assert (answer.instance, answer.hop) == ("c", Hop.LOAD)


def test_a_copy_that_failed_the_request_is_not_tried_again_but_a_new_load_of_it_is() -> None:
    journey = failed(Outcome.NOT_HERE, "b")
    assert not isinstance(step(cluster("a", "b"), copies=[copy("b")], journey=journey), SendTo)
    again = step(cluster("a", "b"), copies=[copy("b", load=2)], journey=journey)
    assert isinstance(again, SendTo)
    assert again.hop is Hop.HIT


def test_a_copy_at_a_lost_instance_does_not_keep_the_model_from_loading_elsewhere() -> None:
    answer = step(cluster("a", "b", lost="b"), copies=[copy("b")])
    assert isinstance(answer, LoadHere)


def test_an_unlisted_copy_serves_on() -> None:
    answer = step(cluster("a"), copies=[copy("b", unlisted=True)])
    assert isinstance(answer, SendTo)
    assert answer.instance == "b"


def test_a_runtime_that_answers_unavailable_does_not_cause_another_load() -> None:
    answer = step(cluster("a", "b", "c"), copies=[copy("b")], journey=failed(Outcome.UNAVAILABLE))
    assert isinstance(answer, GiveUp)
    assert answer.status is Status.INTERNAL


def test_but_another_copy_is_asked() -> None:
    answer = step(cluster("a", "b", "c"), copies=[copy("b"), copy("c")], journey=failed(Outcome.UNAVAILABLE))
    assert isinstance(answer, SendTo)
    assert answer.instance == "c"


def test_exhausted_is_tried_once_elsewhere_and_then_returned_whole() -> None:
    once = failed(Outcome.EXHAUSTED, status=Status.RESOURCE_EXHAUSTED)
    assert isinstance(step(cluster("a", "b", "c"), copies=[copy("b"), copy("c")], journey=once), SendTo)
    assert isinstance(step(cluster("a", "b"), copies=[copy("b")], journey=once), ReturnLast)
    twice = failed(Outcome.EXHAUSTED, times=2)
    assert isinstance(step(cluster("a", "b", "c"), copies=[copy("c")], journey=twice), ReturnLast)


def test_three_recent_failures_end_it_with_the_newest_message() -> None:
    failures = [failure("a", message="old", ago_ms=9000), failure("b", message="new"), failure("c", ago_ms=5000)]
    answer = step(cluster("a", "b", "c", "d"), failures=failures)
    assert isinstance(answer, GiveUp)
    assert (answer.status, answer.message) == (Status.INTERNAL, "new")


def test_failures_of_instances_do_not_count_against_the_model() -> None:
    failures = [failure(name, kind=FailureKind.BAD_INSTANCE) for name in "abc"]
    answer = step(cluster("a", "b", "c", "d"), failures=failures)
    assert isinstance(answer, SendTo)
    assert answer.instance == "d"


def test_an_instance_that_failed_the_model_is_not_asked_again_until_that_expires() -> None:
    answers = {step(cluster("a", "b"), failures=[failure("b")], seed=seed) for seed in range(20)}
    assert {type(answer) for answer in answers} == {LoadHere}


def test_with_all_instances_failed_the_recorded_message_is_the_answer() -> None:
    answer = step(cluster("a", "b"), failures=[failure("a"), failure("b", message="later", ago_ms=10)])
    assert isinstance(answer, GiveUp)
    assert answer.message == "later"


def test_eight_failed_attempts_are_enough() -> None:
    answer = step(cluster("a", "b"), journey=failed(Outcome.NOT_HERE, times=8))
    assert isinstance(answer, GiveUp)
    assert answer.message == "8 retry iterations exhausted"


def test_a_stale_view_is_no_failed_attempt() -> None:
    assert failed(Outcome.MOVED, times=100).attempts == 0


def test_five_unusable_copies_are_enough() -> None:
    names = "abcdef"
    journey = Journey(spent=frozenset((InstanceId(name), LoadId(1)) for name in names[1:]))
    answer = step(cluster(*names), copies=[copy(name) for name in names[1:]], journey=journey)
    assert isinstance(answer, GiveUp)
    assert answer.message == "Failed to invoke model loaded in >=5 locations"


def test_a_passing_trouble_is_unavailable_and_names_who_and_why() -> None:
    answer = step(cluster("a", "b", own="a", down="a", lost="b"))
    assert isinstance(answer, GiveUp)
    assert answer.status is Status.UNAVAILABLE
    assert "a has no connection to its runtime" in answer.message
    assert "b is not reachable" in answer.message


def test_who_is_asked_to_load_joins_loads_or_refuses_and_never_forwards() -> None:
    asked = Journey(hop=Hop.LOAD)
    assert isinstance(step(cluster("a", "b"), journey=asked), LoadHere)
    assert isinstance(step(cluster("a", "b"), copies=[copy("a", ready=False)], journey=asked), ServeHere)
    assert isinstance(step(cluster("a", "b"), copies=[copy("b")], journey=asked), LoadHere)
    draining = step(cluster("a", draining="a"), journey=asked)
    assert isinstance(draining, Refuse)
    assert draining.outcome is Outcome.DRAINING
    known = step(cluster("a"), failures=[failure("a")], journey=asked)
    assert isinstance(known, Refuse)
    assert (known.outcome, known.message) == (Outcome.LOAD_FAILED, "boom")


OUTCOMES = st.sampled_from([outcome for outcome in Outcome if outcome is not Outcome.MOVED])
NAMES = st.sampled_from("abcd")


@given(
    st.lists(st.tuples(NAMES, OUTCOMES), max_size=12),
    st.lists(st.builds(copy, NAMES, ready=st.booleans()), unique_by=lambda c: c.instance, max_size=4),
    st.lists(st.builds(failure, NAMES), unique_by=lambda f: f.instance, max_size=4),
    st.sets(NAMES),
    st.integers(0, 1000),
)
def test_it_always_ends_and_never_returns_to_a_spent_copy(attempts, copies, failures, lost, seed) -> None:
    journey = Journey()
    for name, outcome in attempts:
        journey = journey.failed(LastFailure(InstanceId(name), outcome, Status.UNAVAILABLE, "why"), LoadId(1))
    view = cluster("a", "b", "c", "d", lost=lost - {"a"})
    answer = step(view, copies=copies, failures=failures, journey=journey, seed=seed)
    if journey.attempts >= 8:
        assert isinstance(answer, GiveUp | ReturnLast)
    if isinstance(answer, SendTo):
        assert answer.instance != "a"
        assert answer.instance not in lost
        if answer.hop is Hop.HIT:
            assert (answer.instance, LoadId(1)) not in journey.spent
        else:
            assert answer.instance not in journey.load_tried


def test_a_failure_elsewhere_is_no_answer_while_an_instance_may_be_back() -> None:
    """It cannot load at the moment, but has never failed to: the call is worth repeating."""
    answer = step(cluster("a", down="a"), failures=[failure("gone")])
    assert isinstance(answer, GiveUp)
    assert answer.status is Status.UNAVAILABLE
    for hopeless in (cluster("a", draining="a"), cluster("gone", own="gone", down="gone")):
        answer = step(hopeless, failures=[failure("gone")])
        assert isinstance(answer, GiveUp)
        assert (answer.status, answer.message) == (Status.INTERNAL, "boom")
