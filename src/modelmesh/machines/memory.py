"""The memory ledger of one instance: how many bytes each copy and load holds.

    granted (to waiting and loading copies) + held (measured) + leaving (until unloaded) + free = capacity

A load asks for its predicted size when it leaves the queue. Waiting loads are ordered: freed bytes
go to the first of them until its grant is complete, so that small loads cannot starve a big one. The
reserve (the old "unload buffer") is room that evictions keep free beyond the loads, so that a load may
begin while its victim still unloads.
Source: design notes, "Memory of one instance"; `spec/request-path.md` 6.4 has the arithmetic.
"""

from dataclasses import dataclass

from modelmesh.values.ids import LoadId


def reserve_bytes(
    *,
    capacity_bytes: int,
    default_size_bytes: int,
    loading_slots: int,
    typical_bytes: int = 0,
    load_ms: int = 0,
    unload_ms: int = 0,
) -> int:
    """How much room evictions keep free.

    About a quarter (with one or two slots half) of what can load at once, between a hundredth and a
    tenth of the capacity. It is a hundredth where more does not pay: where a typical model does not fit into it, so
    that no load can begin there, and where unloads are so short beside loads that what is kept in the room saves more.

    Args:
        capacity_bytes: All that copies may take.
        default_size_bytes: The runtime's guess of a model's size.
        loading_slots: Loads at a time.
        typical_bytes: Mean size of the copies that are held; 0: none is.
        load_ms: How long loads commonly take; 0: not known.
        unload_ms: How long unloads commonly take; 0: not known.
    """
    least = capacity_bytes // 100
    share = loading_slots * default_size_bytes // (2 if loading_slots <= 2 else 4)
    reserve = max(min(share, capacity_bytes // 10), least)
    if typical_bytes > reserve:
        return least
    if load_ms and unload_ms and unload_ms * capacity_bytes < load_ms * reserve:
        # Without it, every load takes longer by an unload; with it, about as large a share of the loads is one too many.
        return least
    return reserve


def minimum_capacity_bytes(default_size_bytes: int) -> int:
    """The least capacity that a runtime may report."""
    return max(2 * default_size_bytes, min(512 << 20, 10 * default_size_bytes))


@dataclass(slots=True)
class _Grant:
    want: int
    given: int = 0


class MemoryLedger:
    """The books. Sizes in bytes; loads are known by their load id.

    The one permitted excess of `capacity_bytes` is a copy that turned out larger than its grant, or a
    runtime that came back smaller, until the evictions this causes are confirmed.
    """

    def __init__(self, *, capacity_bytes: int, reserve: int) -> None:
        assert 0 <= reserve < capacity_bytes
        self.capacity_bytes = capacity_bytes
        self.reserve = reserve
        self._grants: dict[LoadId, _Grant] = {}
        self._held: dict[LoadId, int] = {}
        self._leaving: dict[LoadId, int] = {}
        self._held_total = 0
        self._nearly_all: dict[LoadId, int] = {}
        """Sizes of held copies that do not fit beside the reserve: one at most, but for a permitted excess."""

    @property
    def granted_bytes(self) -> int:
        """Asked for by loads that wait or run, whether complete or not."""
        return sum(grant.want for grant in self._grants.values())

    @property
    def held_bytes(self) -> int:
        """In copies that are loaded."""
        return self._held_total

    @property
    def typical_bytes(self) -> int:
        """Mean size of the copies that are loaded; 0: there is none."""
        return self._held_total // len(self._held) if self._held else 0

    @property
    def leaving_bytes(self) -> int:
        """In copies whose unload is not confirmed."""
        return sum(self._leaving.values())

    @property
    def used_bytes(self) -> int:
        """What placement counts as used: loaded, loading, and waiting for memory."""
        return self.granted_bytes + self.held_bytes

    @property
    def free_bytes(self) -> int:
        """Given to nobody; negative while there is an excess."""
        given = sum(grant.given for grant in self._grants.values())
        return self.capacity_bytes - given - self.held_bytes - self.leaving_bytes

    def booked_bytes(self, load: LoadId) -> int:
        """What is booked for one copy: given so far, held or leaving."""
        grant = self._grants.get(load)
        if grant is not None:
            return grant.given
        return self._held.get(load) or self._leaving.get(load, 0)

    def excess_bytes(self, *, pinned_bytes: int = 0, more_bytes: int = 0) -> int:
        """Bytes that must be evicted so that every load gets its grant and the reserve stays: never negative.

        What already leaves counts as gone: evicting more would not free it sooner. A copy that fits only without the
        reserve, alone or beside what is pinned, takes from it: evicting all others would not make the reserve stand.

        Args:
            pinned_bytes: Held in copies that are never evicted.
            more_bytes: As if one more load asked for so much.
        """
        used = self.used_bytes + more_bytes
        excess = used + self.reserve - self.capacity_bytes
        if excess <= 0:
            return 0
        wanted = max((grant.want for grant in self._grants.values()), default=0)
        wanted = max(wanted, more_bytes)
        stays = max(pinned_bytes + wanted, max(self._nearly_all.values(), default=0))
        reserve = min(self.reserve, max(0, self.capacity_bytes - stays))
        return max(0, used + reserve - self.capacity_bytes)

    def forced_bytes(self) -> int:
        """Bytes by which the loaded copies alone exceed the capacity: these go whatever it costs."""
        return max(0, self.held_bytes - self.capacity_bytes)

    def ask(self, load: LoadId, want_bytes: int) -> list[LoadId]:
        """Queue a load for `want_bytes`; returns the loads whose grant is complete by this, in order."""
        assert want_bytes > 0
        assert load not in self._grants
        self._grants[load] = _Grant(want_bytes)
        return self._hand_out()

    def settle(self, load: LoadId, measured_bytes: int) -> list[LoadId]:
        """A load has ended well: its grant, or what was held for it so far, becomes what was measured."""
        assert measured_bytes > 0
        self._grants.pop(load, None)
        if load in self._held:
            self._unhold(load)
        self._hold(load, measured_bytes)
        return self._hand_out()

    def leave(self, load: LoadId) -> list[LoadId]:
        """A copy goes: its bytes count as leaving until `free`. Bytes it was never given count for nothing."""
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

    def free(self, load: LoadId) -> list[LoadId]:
        """A copy is gone, in whatever state it was; returns the loads that can begin by this."""
        self._grants.pop(load, None)
        if load in self._held:
            self._unhold(load)
        self._leaving.pop(load, None)
        return self._hand_out()

    def resize(self, *, capacity_bytes: int, reserve: int) -> list[LoadId]:
        """The runtime came back with another capacity, or another reserve pays; returns the loads that can begin by this."""
        self.capacity_bytes = capacity_bytes
        self.reserve = reserve
        self._nearly_all = {load: size for load, size in self._held.items() if size > capacity_bytes - reserve}
        return self._hand_out()

    def check(self) -> None:
        """Raise AssertionError if the books do not balance; for tests and the simulator."""
        assert self._held_total == sum(self._held.values())
        assert not (self._held.keys() & self._grants.keys())
        assert not (self._held.keys() & self._leaving.keys())
        assert not (self._grants.keys() & self._leaving.keys())
        assert all(0 <= grant.given <= grant.want for grant in self._grants.values())

    def _hold(self, load: LoadId, size: int) -> None:
        assert load not in self._held
        self._held[load] = size
        self._held_total += size
        if size > self.capacity_bytes - self.reserve:
            self._nearly_all[load] = size

    def _unhold(self, load: LoadId) -> int:
        size = self._held.pop(load)
        self._nearly_all.pop(load, None)
        self._held_total -= size
        return size

    def _hand_out(self) -> list[LoadId]:
        """Give free bytes to waiting loads, first come first served."""
        complete: list[LoadId] = []
        free = self.free_bytes
        for load, grant in self._grants.items():
            missing = grant.want - grant.given
            if missing == 0:
                continue
            given = min(missing, max(0, free))
            grant.given += given
            free -= given
            if grant.given < grant.want:
                break
            complete.append(load)
        return complete
