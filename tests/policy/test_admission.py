"""Whether a load may begin here."""

import pytest

from modelmesh.policy.admission import AdmissionReason as R
from modelmesh.policy.admission import LoadCondition, admit


def condition(*, used=0, oldest=0, draining=False, ready=True) -> LoadCondition:
    return LoadCondition(1000, 100, used, oldest, draining, ready)


@pytest.mark.parametrize(
    ("state", "size", "last_use", "reason"),
    [
        (condition(), 10, None, R.ADMITTED),
        (condition(), 1000, None, R.ADMITTED),
        (condition(), 1001, None, R.TOO_LARGE),
        (condition(draining=True), 10, None, R.DRAINING),
        (condition(ready=False), 10, None, R.RUNTIME_AWAY),
        (condition(used=900, oldest=50), 10, 49, R.OLDER_THAN_ALL),
        (condition(used=900, oldest=50), 10, 51, R.ADMITTED),
        (condition(used=900, oldest=50), 10, None, R.ADMITTED),
        (condition(used=100, oldest=50), 10, 49, R.ADMITTED),
    ],
)
def test_admission(state, size, last_use, reason) -> None:
    assert admit(state, size_bytes=size, last_use_ms=last_use) is reason
