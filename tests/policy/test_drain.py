"""What must stand elsewhere before an instance leaves."""

from modelmesh.policy.drain import DrainReason, LeaveBehind, LeavingCopy, Move, plan_drain
from modelmesh.values.ids import ModelId

NOW = 360_000_000


def copy(name: str, **facts: int) -> LeavingCopy:
    known = {"last_use_ms": NOW, "in_use": 0, "rate": 0, "elsewhere": 0, "wanted": 1} | facts
    return LeavingCopy(ModelId(name), **{**known, "in_use": bool(known["in_use"])})  # type: ignore[arg-type]


def test_the_hottest_go_first() -> None:
    moves, _ = plan_drain(
        [copy("cool", last_use_ms=NOW - 5), copy("warm", rate=10), copy("hot", rate=99), copy("busy", in_use=1)],
    )
    assert [move.model for move in moves] == ["busy", "hot", "warm", "cool"]
    assert moves[0] == Move(ModelId("busy"), DrainReason.IN_USE)


def test_copies_are_moved_to_parity() -> None:
    moves, behind = plan_drain([copy("one", elsewhere=1, wanted=2), copy("two", elsewhere=2, wanted=2)])
    assert [move.model for move in moves] == ["one"]
    assert behind == (LeaveBehind(ModelId("two"), DrainReason.ENOUGH_ELSEWHERE),)


def test_what_nobody_has_called_yet_is_moved_too() -> None:
    moves, behind = plan_drain([copy("a", last_use_ms=NOW - 3_600_001), copy("b", last_use_ms=0)])
    assert moves == (Move(ModelId("a"), DrainReason.LOADED), Move(ModelId("b"), DrainReason.LOADED))
    assert behind == ()
