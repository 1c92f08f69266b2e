"""How use is counted: rates over a window, waiting, and what a copy can take at its measured latency."""

from modelmesh.control.duties.rates import SAMPLE, SATURATED_LOOKS, WINDOW_MS, RateBook
from modelmesh.policy.copies import CopiesLimits
from modelmesh.values.dataplane import Usage
from modelmesh.values.ids import ModelId

M = ModelId("m")
LIMITS = CopiesLimits()


def used(requests: int = 0, *, service_ms: int = 0, in_flight: int = 0, waiting: int = 0) -> list[Usage]:
    return [Usage(M, 0, requests, requests * service_ms * 1000, in_flight, waiting)]


def threshold(book: RateBook, *, max_concurrency: int = 1, bandwidth_percent: int = 90) -> int | None:
    return book.threshold(M, max_concurrency=max_concurrency, bandwidth_percent=bandwidth_percent)


def test_a_rate_is_that_of_the_window_and_ends_with_it() -> None:
    book = RateBook(LIMITS)
    for second in range(WINDOW_MS // 1000):
        book.apply(used(50))
        book.tick(second * 1000)
    assert book.rate(M) == 50 * 60
    book.tick(2 * WINDOW_MS)
    assert book.rate(M) == 0
    assert book.used() == ()


def test_a_copy_is_saturated_when_requests_wait_again_and_again() -> None:
    book = RateBook(LIMITS)
    for look in range(SATURATED_LOOKS):
        assert not book.saturated(M)
        book.apply(used(1, waiting=3))
        book.tick(look * 1000)
    assert book.saturated(M)
    book.apply(used(1))
    book.tick(SATURATED_LOOKS * 1000)
    assert not book.saturated(M)


def test_what_a_copy_can_take_follows_from_its_latency_and_concurrency() -> None:
    book = RateBook(LIMITS)
    book.apply(used(SAMPLE, service_ms=100))
    assert threshold(book) == 540  # 600 a minute at 100 ms each, of which 90 %
    assert threshold(book, max_concurrency=4) == 4 * 540
    assert threshold(book, bandwidth_percent=50) == 300


def test_until_enough_was_measured_the_plain_threshold_holds() -> None:
    book = RateBook(LIMITS)
    assert threshold(book) == LIMITS.rate
    book.apply(used(1, service_ms=100))
    assert threshold(book) == LIMITS.rate


def test_a_latency_outlives_its_sample_until_the_next_one_is_full() -> None:
    book = RateBook(LIMITS)
    book.apply(used(SAMPLE, service_ms=100))
    book.tick(0)
    assert threshold(book) == 540
    book.apply(used(SAMPLE, service_ms=300))
    assert threshold(book) == 180


def test_requests_that_take_no_time_need_no_more_copies() -> None:
    book = RateBook(LIMITS)
    book.apply(used(SAMPLE, service_ms=0))
    assert threshold(book) is None


def test_what_is_not_held_any_more_is_forgotten() -> None:
    book = RateBook(LIMITS)
    book.apply(used(100))
    book.tick(0)
    book.keep(())
    assert book.rate(M) == 0
    book.tick(WINDOW_MS)  # counts of a forgotten model leave the window as well
    assert book.hottest(0) == ()


def test_others_are_told_of_the_hottest_first_in_round_numbers() -> None:
    book = RateBook(LIMITS)
    book.apply([Usage(ModelId(name), 0, count, 0, 0, 0) for name, count in (("a", 10), ("b", 333), ("c", 100))])
    book.tick(0)
    assert [(copy.model, copy.rate) for copy in book.hottest(100)] == [("b", 1900), ("c", 600)]
