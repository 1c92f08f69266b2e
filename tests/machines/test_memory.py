"""The memory ledger: the worked example, then every sequence."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelmesh.machines.memory import MemoryLedger, minimum_capacity, usual_reserve
from modelmesh.values.ids import LoadId
from modelmesh.values.memory import Memory


def test_the_reserve_of_the_example_runtime_is_75_mib() -> None:
    assert usual_reserve(capacity=Memory(1024 << 20), default_size=Memory(50 << 20), loading_slots=6) == Memory(
        75 << 20
    )


def test_the_reserve_stays_between_a_hundredth_and_a_tenth() -> None:
    assert usual_reserve(capacity=Memory(1000), default_size=Memory(1), loading_slots=1) == Memory(10)
    assert usual_reserve(capacity=Memory(1000), default_size=Memory(900), loading_slots=4) == Memory(100)


TENTH = {"capacity": Memory(1000), "default_size": Memory(100), "loading_slots": 4}


def test_a_reserve_into_which_no_typical_model_fits_is_a_hundredth() -> None:
    assert usual_reserve(**TENTH, typical=Memory(100)) == Memory(100)
    assert usual_reserve(**TENTH, typical=Memory(101)) == Memory(10)


def test_a_reserve_that_costs_more_loads_than_it_shortens_is_a_hundredth() -> None:
    """A tenth of the memory pays if unloads take a tenth of the time of loads, or longer."""
    assert usual_reserve(**TENTH, load_ms=1000, unload_ms=100) == Memory(100)
    assert usual_reserve(**TENTH, load_ms=1000, unload_ms=99) == Memory(10)


def test_what_was_not_measured_yet_changes_no_reserve() -> None:
    assert usual_reserve(**TENTH, load_ms=1000) == usual_reserve(**TENTH, unload_ms=1) == Memory(100)


def test_the_least_capacity() -> None:
    assert minimum_capacity(Memory(50 << 20)) == Memory(500 << 20)
    assert minimum_capacity(Memory(400 << 20)) == Memory(800 << 20)


def test_the_worked_example() -> None:
    """18 of 50 are loaded; three more come in quick succession; the third waits for the first unload."""
    ledger = MemoryLedger(capacity=Memory(1024), reserve=Memory(75))
    for n in range(18):
        assert ledger.ask(LoadId(n), Memory(50)) == [n]
        ledger.settle(LoadId(n), Memory(50))
    assert ledger.excess() == Memory(0)
    assert ledger.ask(LoadId(19), Memory(50)) == [19]  # begins while its victim still unloads
    assert ledger.excess() == Memory(1)
    ledger.leave(LoadId(0))
    assert ledger.excess() == Memory(0)
    assert ledger.ask(LoadId(20), Memory(50)) == [20]
    ledger.leave(LoadId(1))
    assert ledger.ask(LoadId(21), Memory(50)) == []
    ledger.leave(LoadId(2))
    assert ledger.excess() == Memory(0)
    assert ledger.release(LoadId(0)) == [21]


def test_a_measured_size_above_the_grant_evicts_exactly_as_much_as_needed() -> None:
    ledger = MemoryLedger(capacity=Memory(1024), reserve=Memory(75))
    for n in range(18):
        ledger.ask(LoadId(n), Memory(50))
        ledger.settle(LoadId(n), Memory(50))
    ledger.ask(LoadId(18), Memory(50))
    ledger.leave(LoadId(0))
    ledger.release(LoadId(0))
    ledger.settle(LoadId(18), Memory(160))
    assert ledger.excess() == Memory(17 * 50 + 160 + 75 - 1024)  # two more of 50


def test_a_big_load_collects_freed_bytes_before_later_small_ones() -> None:
    ledger = MemoryLedger(capacity=Memory(100), reserve=Memory(1))
    for n in range(9):
        ledger.ask(LoadId(n), Memory(10))
        ledger.settle(LoadId(n), Memory(10))
    assert ledger.ask(LoadId(100), Memory(60)) == []
    assert ledger.ask(LoadId(101), Memory(10)) == []
    complete = []
    for n in range(6):
        ledger.leave(LoadId(n))
        complete += ledger.release(LoadId(n))
    assert complete == [100, 101]


def test_a_load_that_has_its_grant_can_want_more() -> None:
    ledger = MemoryLedger(capacity=Memory(100), reserve=Memory(1))
    assert ledger.ask(LoadId(1), Memory(40)) == [1]
    assert ledger.ask(LoadId(2), Memory(40)) == [2]
    assert ledger.widen(LoadId(1), Memory(70)) == []
    assert (ledger.booked(LoadId(1)), ledger.free) == (Memory(60), Memory(0))
    assert ledger.excess() == Memory(11)
    assert ledger.release(LoadId(2)) == [1]
    assert (ledger.booked(LoadId(1)), ledger.free) == (Memory(70), Memory(30))


def test_a_kept_copy_is_held_again() -> None:
    ledger = MemoryLedger(capacity=Memory(100), reserve=Memory(1))
    ledger.ask(LoadId(1), Memory(10))
    ledger.settle(LoadId(1), Memory(10))
    ledger.leave(LoadId(1))
    assert (ledger.held, ledger.leaving) == (Memory(0), Memory(10))
    ledger.stay(LoadId(1))
    assert (ledger.held, ledger.leaving) == (Memory(10), Memory(0))


class Ledger(RuleBasedStateMachine):
    """Any order of loads, ends, evictions and confirmations balances, and never grants what is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = MemoryLedger(capacity=Memory(1000), reserve=Memory(50))
        self.next = 0
        self.waiting: dict[LoadId, int] = {}
        self.loading: dict[LoadId, int] = {}
        self.held: dict[LoadId, int] = {}
        self.leaving: dict[LoadId, int] = {}

    def begin(self, complete: list[LoadId]) -> None:
        for load in complete:
            self.loading[load] = self.waiting.pop(load)

    @rule(size=st.integers(1, 400))
    def ask(self, size: int) -> None:
        self.next += 1
        load = LoadId(self.next)
        self.waiting[load] = size
        self.begin(self.ledger.ask(load, Memory(size)))

    @precondition(lambda self: self.loading)
    @rule(data=st.data())
    def loaded(self, data) -> None:
        load = data.draw(st.sampled_from(sorted(self.loading)))
        size = self.loading.pop(load)
        self.held[load] = size
        self.begin(self.ledger.settle(load, Memory(size)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), more=st.integers(0, 400))
    def widen(self, data, more: int) -> None:
        load = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting[load] += more
        self.begin(self.ledger.widen(load, Memory(self.waiting[load])))

    @precondition(lambda self: self.loading or self.held)
    @rule(data=st.data())
    def leave(self, data) -> None:
        load = data.draw(st.sampled_from(sorted({**self.loading, **self.held})))
        size = self.loading.pop(load, None) or self.held.pop(load)
        self.leaving[load] = size
        self.begin(self.ledger.leave(load))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data) -> None:
        load = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[load]
        self.begin(self.ledger.release(load))

    @precondition(lambda self: self.leaving)
    @rule(data=st.data())
    def unloaded(self, data) -> None:
        load = data.draw(st.sampled_from(sorted(self.leaving)))
        del self.leaving[load]
        self.begin(self.ledger.release(load))

    @invariant()
    def balances(self) -> None:
        self.ledger.check()
        real = sum(self.loading.values()) + sum(self.held.values()) + sum(self.leaving.values())
        assert real <= 1000
        assert not Memory(0).beyond(self.ledger.free)
        assert self.ledger.held == Memory(sum(self.held.values()))
        assert self.ledger.leaving == Memory(sum(self.leaving.values()))

    @invariant()
    def the_first_waiting_load_gets_what_is_free(self) -> None:
        if self.waiting:
            assert self.ledger.free == Memory(0)


TestLedger = Ledger.TestCase


@given(
    st.integers(1, 10**12),
    st.integers(1, 10**10),
    st.integers(1, 100),
    st.integers(0, 10**10),
    st.integers(0, 10**7),
    st.integers(0, 10**7),
)
def test_the_reserve_never_takes_more_than_a_tenth(capacity, size, slots, typical, load_ms, unload_ms) -> None:
    reserve = usual_reserve(
        capacity=Memory(capacity),
        default_size=Memory(size),
        loading_slots=slots,
        typical=Memory(typical),
        load_ms=load_ms,
        unload_ms=unload_ms,
    )
    assert capacity // 100 <= reserve.bytes <= capacity // 10


def test_what_fits_only_without_the_reserve_takes_from_it() -> None:
    """Else everything would leave for a room that cannot be, and be looked for without end."""
    ledger = MemoryLedger(capacity=Memory(1000), reserve=Memory(100))
    ledger.ask(LoadId(1), Memory(50))
    ledger.settle(LoadId(1), Memory(50))
    assert ledger.excess(more=Memory(850)) == Memory(0)
    assert ledger.excess(more=Memory(980)) == Memory(50)
    assert ledger.ask(LoadId(2), Memory(980)) == []
    assert ledger.excess() == Memory(50)
    ledger.leave(LoadId(1))
    assert ledger.release(LoadId(1)) == [LoadId(2)]
    ledger.settle(LoadId(2), Memory(980))
    assert ledger.excess() == Memory(0)
    ledger.ask(LoadId(3), Memory(10))
    assert ledger.excess() == Memory(10)  # beside what stands the reserve is 20
    ledger.resize(capacity=Memory(2000), reserve=Memory(100))
    assert ledger.excess() == Memory(0)


def test_the_reserve_is_not_wanted_where_pinned_copies_stand() -> None:
    ledger = MemoryLedger(capacity=Memory(1000), reserve=Memory(100))
    ledger.ask(LoadId(1), Memory(400))
    ledger.settle(LoadId(1), Memory(400))
    ledger.ask(LoadId(2), Memory(550))
    ledger.settle(LoadId(2), Memory(550))
    assert ledger.excess() == Memory(50)
    assert ledger.excess(pinned=Memory(950)) == Memory(0)
    assert ledger.excess(pinned=Memory(400)) == Memory(50)
