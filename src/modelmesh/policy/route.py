"""Which of the ready copies gets a request.

The readable reference of the one choice that the native core makes by itself, on every call;
`tests/policy/test_route.py` holds the two to the same answers.
Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
"""

from collections.abc import Sequence


def choose_copy(loads: Sequence[int], draws: tuple[int, int]) -> int:
    """Choose the less loaded of two copies drawn at random; returns its index.

    Args:
        loads: Requests in flight per ready copy, as this instance knows them; not empty.
        draws: Two uniform 32-bit numbers.
    """
    assert loads
    if len(loads) == 1:
        return 0
    first = draws[0] % len(loads)
    second = draws[1] % (len(loads) - 1)
    if second >= first:
        second += 1
    return second if loads[second] < loads[first] else first
