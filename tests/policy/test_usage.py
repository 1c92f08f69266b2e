"""What instances counted of the same tenant and model is added up."""

from modelmesh.policy.usage import added_up
from modelmesh.values.dataplane import Consumption
from modelmesh.values.ids import ModelId

A, B = ModelId("a"), ModelId("b")
HERE = [Consumption("t", A, calls=2, failed=1, call_us=10, size=7, loads=1), Consumption("", B, calls=1)]
THERE = [Consumption("t", A, calls=3, failed=2, call_us=20, size=5, loads=2), Consumption("t", B, loads=1)]


def test_each_tenant_and_model_has_one_sum_in_order() -> None:
    assert added_up([*HERE, *THERE]) == [
        Consumption("", B, calls=1),
        Consumption("t", A, calls=5, failed=3, call_us=30, size=12, loads=3),
        Consumption("t", B, loads=1),
    ]
    assert added_up([]) == []


def test_one_tenant_or_model_may_be_asked_for() -> None:
    assert [one.model for one in added_up([*HERE, *THERE], tenant="t")] == [A, B]
    assert added_up([*HERE, *THERE], tenant="") == [Consumption("", B, calls=1)], "calls without a tenant"
    assert [one.tenant for one in added_up([*HERE, *THERE], model="b")] == ["", "t"]
    assert added_up(HERE, tenant="u", model="a") == []
