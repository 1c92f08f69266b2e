"""The memory ledger of one instance: how much memory each copy and load holds.

    granted (to waiting and loading copies) + held (measured) + leaving (until unloaded) + free = capacity

A load asks for its predicted size when it leaves the queue. Waiting loads are ordered: freed memory
goes to the first of them until its grant is complete, so that small loads cannot starve a big one. The
reserve (the old "unload buffer") is room that evictions keep free beyond the loads, so that a load may
begin while its victim still unloads.
Source: design notes, "Memory of one instance"; `spec/request-path.md` 6.4 has the arithmetic.
"""

from dataclasses import dataclass

from modelmesh.values.ids import LoadId
from modelmesh.values.memory import NOTHING, Memory, largest, total

LEAST_CAPACITY = Memory(512 << 20)


def usual_reserve(
    *,
    capacity: Memory,
    default_size: Memory,
    loading_slots: int,
    typical: Memory = NOTHING,
    load_ms: int = 0,
    unload_ms: int = 0,
) -> Memory:
    """How much room evictions keep free.

    About a quarter (with one or two slots half) of what can load at once, between a hundredth and a
    tenth of the capacity. It is a hundredth where more does not pay: where a typical model does not fit into it, so
    that no load can begin there, and where unloads are so short beside loads that what is kept in the room saves more.

    Args:
        capacity: All that copies may take.
        default_size: The runtime's estimate of a model's size.
        loading_slots: Loads at a time.
        typical: Mean size of the copies that are held; nothing: none is.
        load_ms: How long loads commonly take; 0: not known.
        unload_ms: How long unloads commonly take; 0: not known.
    """
    least = capacity // 100
    share = default_size * loading_slots // (2 if loading_slots <= 2 else 4)
    reserve = share.at_most(capacity // 10).at_least(least)
    if not typical.fits(reserve):
        return least
    if load_ms and unload_ms and not (reserve * load_ms).fits(capacity * unload_ms):
        # Without it, every load takes longer by an unload; with it, about as large a share of the loads is one too many.
        return least
    return reserve


def minimum_capacity(default_size: Memory) -> Memory:
    """The least capacity that a runtime may report."""
    return (default_size * 2).at_least((default_size * 10).at_most(LEAST_CAPACITY))


@dataclass(slots=True)
class _Grant:
    want: Memory
    given: Memory = NOTHING


class MemoryLedger:
    """The books. Loads are known by their load id.

    The one permitted excess of `capacity` is a copy that turned out larger than its grant, or a
    runtime that came back smaller, until the evictions this causes are confirmed.
    """

    def __init__(self, *, capacity: Memory, reserve: Memory) -> None:
        assert NOTHING.fits(reserve)
        assert capacity - reserve
        self.capacity = capacity
        self.reserve = reserve
        self._grants: dict[LoadId, _Grant] = {}
        self._held: dict[LoadId, Memory] = {}
        self._leaving: dict[LoadId, Memory] = {}
        self._held_total = NOTHING
        self._nearly_all: dict[LoadId, Memory] = {}
        """Sizes of held copies that do not fit beside the reserve: one at most, but for a permitted excess."""

    @property
    def granted(self) -> Memory:
        """Asked for by loads that wait or run, whether complete or not."""
        return total(grant.want for grant in self._grants.values())

    @property
    def held(self) -> Memory:
        """In copies that are loaded."""
        return self._held_total

    @property
    def typical(self) -> Memory:
        """Mean size of the copies that are loaded; nothing if there is none."""
        return self._held_total // len(self._held) if self._held else NOTHING

    @property
    def leaving(self) -> Memory:
        """In copies whose unload is not confirmed."""
        return total(self._leaving.values())

    @property
    def used(self) -> Memory:
        """What placement counts as used: loaded, loading, and waiting for memory."""
        return self.granted + self.held

    @property
    def free(self) -> Memory:
        """Not given to any copy or load; negative while there is an excess."""
        given = total(grant.given for grant in self._grants.values())
        return self.capacity - given - self.held - self.leaving

    def booked(self, load: LoadId) -> Memory:
        """What is booked for one copy: given so far, held or leaving."""
        grant = self._grants.get(load)
        if grant is not None:
            return grant.given
        return self._held.get(load) or self._leaving.get(load, NOTHING)

    def excess(self, *, pinned: Memory = NOTHING, more: Memory = NOTHING) -> Memory:
        """What must be evicted so that every load gets its grant and the reserve stays: never negative.

        What is already leaving does not count: evicting more would not free it sooner. A copy that fits only without the
        reserve, alone or beside what is pinned, takes from it: evicting all others would not restore the reserve.

        Args:
            pinned: Held in copies that are never evicted.
            more: As if one more load asked for so much.
        """
        used = self.used + more
        if (used + self.reserve).fits(self.capacity):
            return NOTHING
        wanted = largest(grant.want for grant in self._grants.values()).at_least(more)
        stays = largest(self._nearly_all.values()).at_least(pinned + wanted)
        reserve = self.reserve.at_most(self.capacity.beyond(stays))
        return (used + reserve).beyond(self.capacity)

    def forced(self) -> Memory:
        """By how much the loaded copies alone exceed the capacity: these go whatever it costs."""
        return self.held.beyond(self.capacity)

    def ask(self, load: LoadId, want: Memory) -> list[LoadId]:
        """Queue a load that wants so much; returns the loads whose grant is complete by this, in order."""
        assert want
        assert load not in self._grants
        self._grants[load] = _Grant(want)
        return self._hand_out()

    def widen(self, load: LoadId, want: Memory) -> list[LoadId]:
        """A load wants more than it was given; returns the loads whose grant is complete by this, in order."""
        grant = self._grants[load]
        assert grant.want.fits(want)
        grant.want = want
        return self._hand_out()

    def settle(self, load: LoadId, measured: Memory) -> list[LoadId]:
        """A load has ended well: its grant, or what was held for it so far, becomes what was measured."""
        assert measured
        self._grants.pop(load, None)
        if load in self._held:
            self._unhold(load)
        self._hold(load, measured)
        return self._hand_out()

    def leave(self, load: LoadId) -> list[LoadId]:
        """A copy leaves: what it was given counts as leaving until `release`."""
        grant = self._grants.pop(load, None)
        if grant is not None:
            self._leaving[load] = grant.given
        elif load in self._held:
            self._leaving[load] = self._unhold(load)
        return self._hand_out()

    def stay(self, load: LoadId) -> list[LoadId]:
        """A copy that was to leave is kept."""
        self._hold(load, self._leaving.pop(load))
        return self._hand_out()

    def release(self, load: LoadId) -> list[LoadId]:
        """A copy has ended, in whatever state it was; returns the loads that can begin now."""
        self._grants.pop(load, None)
        if load in self._held:
            self._unhold(load)
        self._leaving.pop(load, None)
        return self._hand_out()

    def resize(self, *, capacity: Memory, reserve: Memory) -> list[LoadId]:
        """The runtime came back with another capacity, or another reserve pays; returns the loads that can begin by this."""
        self.capacity = capacity
        self.reserve = reserve
        self._nearly_all = {load: size for load, size in self._held.items() if not size.fits(capacity - reserve)}
        return self._hand_out()

    def check(self) -> None:
        """Raise AssertionError if the books do not balance; for tests and the simulator."""
        assert self._held_total == total(self._held.values())
        assert not (self._held.keys() & self._grants.keys())
        assert not (self._held.keys() & self._leaving.keys())
        assert not (self._grants.keys() & self._leaving.keys())
        assert all(NOTHING.fits(grant.given) and grant.given.fits(grant.want) for grant in self._grants.values())

    def _hold(self, load: LoadId, size: Memory) -> None:
        assert load not in self._held
        self._held[load] = size
        self._held_total += size
        if not size.fits(self.capacity - self.reserve):
            self._nearly_all[load] = size

    def _unhold(self, load: LoadId) -> Memory:
        size = self._held.pop(load)
        self._nearly_all.pop(load, None)
        self._held_total -= size
        return size

    def _hand_out(self) -> list[LoadId]:
        """Give free memory to waiting loads, first come first served."""
        complete: list[LoadId] = []
        free = self.free
        for load, grant in self._grants.items():
            missing = grant.want - grant.given
            if not missing:
                continue
            given = missing.at_most(free.beyond(NOTHING))
            grant.given += given
            free -= given
            if not grant.want.fits(grant.given):
                break
            complete.append(load)
        return complete
