"""Quotas of tenants: registered models and loaded bytes."""

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.quota import LoadQuota, own_to_unload, refuse_load, refuse_model
from modelmesh.values.ids import ModelId
from modelmesh.values.memory import NOTHING, Memory

M = ModelId("m")


def test_a_tenant_registers_models_up_to_its_limit() -> None:
    assert refuse_model("t", limit=2, registered=1) == ""
    said = "tenant t has 2 models registered, its limit is 2; unregister one first"
    assert refuse_model("t", limit=2, registered=2) == said
    assert "has 3 models" in refuse_model("t", limit=2, registered=3), "the limit was lowered"
    assert refuse_model("t", limit=0, registered=0) != ""


def test_a_tenant_loads_bytes_up_to_its_limit() -> None:
    limit, loaded = Memory(100 << 10), Memory(60 << 10)
    assert refuse_load(LoadQuota("t", limit, loaded), M, Memory(40 << 10)) == ""
    said = refuse_load(LoadQuota("t", limit, loaded), M, Memory(41 << 10))
    assert said == (
        "tenant t has 60.0 KiB loaded, its limit is 100.0 KiB, and model m needs 41.0 KiB; "
        "its idle copies do not make enough room: repeat the call later, or unload a model"
    )
    said = refuse_load(LoadQuota("t", limit, NOTHING), M, Memory(101 << 10))
    assert said == "model m needs 101.0 KiB, and tenant t may have 100.0 KiB loaded in all"


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 1000))
def test_what_is_admitted_stays_within_the_limit(limit: int, loaded: int, size: int) -> None:
    admitted = refuse_load(LoadQuota("t", Memory(limit), Memory(loaded)), M, Memory(size)) == ""
    assert admitted == (loaded + size <= limit)


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 1000), st.integers(0, 1000))
def test_no_more_is_unloaded_than_the_quota_needs(limit: int, loaded: int, size: int, idle: int) -> None:
    quota = LoadQuota("t", Memory(limit), Memory(loaded), idle=Memory(idle))
    if refuse_load(quota, M, Memory(size)) == "":
        return
    unload = own_to_unload(quota, Memory(size))
    if unload is None:
        assert size > limit or loaded + size - idle > limit
    else:
        assert loaded + size - unload.bytes == limit
        assert unload.bytes <= idle
