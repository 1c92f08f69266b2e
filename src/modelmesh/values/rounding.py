"""Numbers that are published or written, and need not be exact."""


def two_digits(number: int) -> int:
    """Rounded down to two digits, so that small changes are not worth a write: 1,234 is 1,200. `number` is not negative."""
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return number // unit * unit
