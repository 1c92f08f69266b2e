"""What the native data plane refuses at its border, for the simulated one."""

import base64
from collections.abc import Sequence

from modelmesh.values.dataplane import Route


def refuse_out_of_range(route: Route | None) -> None:
    """As the native core does, for all routes that come with it. Raises OverflowError."""
    if route is None:
        return
    numbers: list[tuple[int, int]] = [(copy.load_id, 64) for copy in route.remote]
    if (local := route.local) is not None:
        numbers += [(local.load_id, 64), (local.max_concurrency, 32), (local.max_waiting, 32)]
    for number, bits in numbers:
        if not 0 <= number < 1 << bits:
            raise OverflowError(f"{number} has no place in {bits} bits")


def refuse_malformed(trailers: Sequence[tuple[str, bytes]]) -> None:
    """As the native core does: values are printable text, those of `-bin` in base64. Raises ValueError."""
    for name, value in trailers:
        try:
            text = value.decode("ascii")
            if name.endswith("-bin"):
                base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except ValueError as error:
            raise ValueError(f"{name!r} is no valid trailer in wire form") from error
