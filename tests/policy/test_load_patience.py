"""How long a load is waited for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.load_patience import MOST_TIMEOUTS, ends_ms, furthest, moved_on
from modelmesh.values.load_progress import LoadProgress, LoadStage

F, L, W = LoadStage.FETCHING, LoadStage.LOADING, LoadStage.WAITING


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, LoadProgress(LoadStage.LISTING), True),
        (LoadProgress(F, 10, 100), LoadProgress(F, 10, 100), False),
        (LoadProgress(F, 10, 100), LoadProgress(F, 11, 100), True),
        (LoadProgress(F, 10, 100), LoadProgress(F, 9, 100), False),
        (LoadProgress(F, 10, 100), LoadProgress(F, 10, 200), False),
        (LoadProgress(F, 10, 100, 1, 9), LoadProgress(F, 10, 100, 2, 9), True),
        (LoadProgress(F, 100, 100), LoadProgress(L, 100, 100), True),
        (LoadProgress(L), LoadProgress(L), False),
        (LoadProgress(W, 5, 100), LoadProgress(W, 6, 100), True),  # somebody else's pull of the same files moves on
    ],
)
def test_what_counts_as_progress(before: LoadProgress | None, now: LoadProgress, expected: bool) -> None:
    assert moved_on(before, now) is expected


def test_a_pull_that_begins_anew_has_to_come_further_than_before() -> None:
    last = furthest(LoadProgress(F, 50, 100), LoadProgress(F, 0, 100))
    assert not moved_on(last, LoadProgress(F, 49, 100))
    assert moved_on(last, LoadProgress(F, 51, 100))


@pytest.mark.parametrize(
    ("moved_ms", "expected"),
    [(None, 1_060), (1_000, 1_060), (1_030, 1_090), (500, 1_060), (1_000 + 70 * 60, 1_000 + MOST_TIMEOUTS * 60)],
)
def test_when_a_load_is_given_up(moved_ms: int | None, expected: int) -> None:
    assert ends_ms(began_ms=1_000, moved_ms=moved_ms, timeout_ms=60) == expected


@given(
    began_ms=st.integers(0, 10**12),
    moves=st.lists(st.integers(0, 10**8), max_size=20),
    timeout_ms=st.integers(1, 10**6),
)
def test_never_sooner_than_without_progress_and_never_without_end(
    began_ms: int, moves: list[int], timeout_ms: int
) -> None:
    last = began_ms + timeout_ms
    for moved_ms in sorted(began_ms + move for move in moves):
        ends = ends_ms(began_ms=began_ms, moved_ms=moved_ms, timeout_ms=timeout_ms)
        assert last <= ends <= began_ms + MOST_TIMEOUTS * timeout_ms
        last = ends


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (LoadProgress(LoadStage.LISTING), "listing"),
        (LoadProgress(F, 12_500_000, 40_000_000, 3, 7), "fetching, 11.9 MiB of 38.1 MiB, 3 of 7 files"),
        (LoadProgress(F, 12_500_000, 0, 0, 1), "fetching, 11.9 MiB"),
    ],
)
def test_in_words(progress: LoadProgress, text: str) -> None:
    assert str(progress) == text


def test_a_stage_that_is_not_known_is_other() -> None:
    said = LoadProgress.decoded("quantizing", bytes_done=2**70, bytes_total=0, files_done=0, files_total=0)
    assert said.stage is LoadStage.OTHER
    assert said.bytes_done < 2**63
