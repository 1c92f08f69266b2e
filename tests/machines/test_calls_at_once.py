"""How many calls are at work at a time, in the mean of the last minute."""

from modelmesh.control.copies.usage import Learned, UsageBook
from modelmesh.values.dataplane import Usage
from modelmesh.values.ids import ModelId
from modelmesh.values.memory import Memory


def used(requests: int, service_us: int) -> list[Usage]:
    return [Usage(ModelId("m"), 0, requests, service_us, 0, 0)]


def test_it_is_the_time_of_calls_for_each_time_that_passed() -> None:
    book = UsageBook(Learned())
    book.sample_rate(0)
    assert (book.at_once, book.requests_per_minute) == (0, 0)
    for second in range(1, 61):  # ten calls a second, each of 250 ms: two and a half at a time
        book.apply(used(10, 2_500_000), second * 1000, lambda _: Memory(1))
        book.sample_rate(second * 1000)
    assert (book.at_once, book.requests_per_minute) == (250, 600)
    for second in range(61, 91):  # half a minute without calls
        book.sample_rate(second * 1000)
    assert (book.at_once, book.requests_per_minute) == (125, 300)
    for second in range(91, 125):
        book.sample_rate(second * 1000)
    assert book.at_once == 0


def test_a_clock_that_stands_still_gives_no_figure() -> None:
    book = UsageBook(Learned())
    book.sample_rate(5)
    book.apply(used(1, 1_000_000), 5, lambda _: Memory(1))
    book.sample_rate(5)
    assert book.at_once == 0
