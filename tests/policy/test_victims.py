"""Which copies leave."""

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.victims import EvictionReason, HeldCopy, choose_victims
from modelmesh.values.ids import LoadId, ModelId
from modelmesh.values.memory import Memory


def held(number: int, *, size=10, busy=False, redundant=False) -> HeldCopy:
    return HeldCopy(ModelId(f"m{number}"), LoadId(number), Memory(size), number, busy, redundant)


def names(victims) -> list[str]:
    return [victim.model for victim in victims]


def test_nothing_is_evicted_without_need() -> None:
    assert choose_victims([held(1)], need=Memory(0)) == ()


def test_the_oldest_go_first_and_no_more_than_needed() -> None:
    assert names(choose_victims([held(n) for n in range(5)], need=Memory(15))) == ["m0", "m1"]


def test_a_redundant_copy_goes_before_an_older_only_one() -> None:
    victims = choose_victims([held(1), held(2, redundant=True)], need=Memory(5))
    assert [(victim.model, victim.reason) for victim in victims] == [("m2", EvictionReason.REDUNDANT)]


def test_a_copy_in_use_stays() -> None:
    assert names(choose_victims([held(1, busy=True), held(2)], need=Memory(5))) == ["m2"]
    assert choose_victims([held(1, busy=True)], need=Memory(5)) == ()


def test_unless_the_runtime_holds_more_than_it_may() -> None:
    victims = choose_victims([held(1, busy=True)], need=Memory(5), forced=True)
    assert [victim.reason for victim in victims] == [EvictionReason.OLDEST_BUSY]


COPIES = st.lists(
    st.builds(held, st.integers(0, 10**6), size=st.integers(1, 50), busy=st.booleans(), redundant=st.booleans()),
    unique_by=lambda copy: copy.load_id,
    max_size=200,
)


@given(COPIES, st.integers(1, 500))
def test_never_a_busy_one_never_twice_and_never_one_too_many(copies, need) -> None:
    victims = choose_victims(copies, need=Memory(need))
    busy = {copy.load_id for copy in copies if copy.busy}
    assert not busy & {victim.load_id for victim in victims}
    assert len({victim.load_id for victim in victims}) == len(victims)
    gained = sum(victim.size.bytes for victim in victims)
    idle = sum(copy.size.bytes for copy in copies if not copy.busy)
    assert gained >= min(need, idle) or len(busy) > 64
    if victims:
        assert gained - victims[-1].size.bytes < need
    needless = [victim for victim in victims if victim.reason is EvictionReason.OLDEST_IDLE]
    assert all(gained - victim.size.bytes < need for victim in needless)


def test_small_ones_stay_that_need_not_go_beside_a_large_one() -> None:
    copies = [held(1, size=3), held(2, size=2), held(3, size=10)]
    assert names(choose_victims(copies, need=Memory(10))) == ["m3"]
    assert names(choose_victims(copies, need=Memory(13))) == ["m1", "m3"]
    assert names(choose_victims(copies, need=Memory(10), exact_order=True)) == ["m1", "m2", "m3"]
