"""Resource quantities of Kubernetes, like 500m and 1Gi, as numbers and back."""

import math
import re
from decimal import Decimal

_QUANTITY = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:([eE][+-]?\d{1,2})|(m|u|n|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?)")
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def parse_quantity(text: object) -> Decimal | None:
    """The value of a quantity, in cores or bytes; None if it is no quantity that a container can have."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        return None
    found = _QUANTITY.fullmatch(str(text))
    if found is None or len(str(text)) > 40:
        return None
    number, exponent, suffix = Decimal(found[1]), found[2], found[3]
    if exponent:
        number = number.scaleb(int(exponent[1:]))
    elif suffix in _BINARY:
        number *= _BINARY[suffix]
    elif suffix:
        number = number.scaleb(_DECIMAL[suffix])
    return number if number >= 0 else None


def show_bytes(count: Decimal) -> str:
    """Bytes as a quantity, in the largest binary unit that needs no fraction; a part of a byte counts as one."""
    whole = math.ceil(count)
    for suffix, unit in reversed(_BINARY.items()):
        if whole and whole % unit == 0:
            return f"{whole // unit}{suffix}"
    return str(whole)
