"""What passes between Python and the native core has named fields, and each is checked where it passes."""

import dataclasses
import typing
from types import SimpleNamespace
from typing import Any

import pytest
from scripted import ID, Instance

from modelmesh._core import _native
from modelmesh.adapters.dataplane import events
from modelmesh.values import dataplane
from modelmesh.values.dataplane import (
    Fail,
    Forward,
    Hop,
    LocalCopy,
    MethodRule,
    Missed,
    Naming,
    Observing,
    PeerAddress,
    RemoteCopy,
    Route,
    Rules,
    Tap,
)
from modelmesh.values.status import Status


@pytest.mark.parametrize(
    ("call", "wrong", "named"),
    [
        ("set_routes", [("m", SimpleNamespace(local=None))], "remote"),
        ("set_routes", [("m", Route(LocalCopy(-1, ready=True)))], "load_id"),
        ("set_routes", [("m", Route(LocalCopy(1, ready=True, max_concurrency=2**32)))], "max_concurrency"),
        ("set_routes", [("m", Route(LocalCopy(1, ready="yes")))], "ready"),
        ("set_routes", [("m", Route(None, (RemoteCopy("b", 2**64),)))], "load_id"),
        ("set_routes", [("m", Route(None, (RemoteCopy(7, 1),)))], "instance"),
        ("set_vmodels", [("v", Naming("m", (("n", 256),)))], "split"),
        ("set_vmodels", [("v", Naming(None))], "active"),
        ("set_peers", [("b", PeerAddress(None))], "address"),
        ("set_peers", [("b", ("127.0.0.1:1", None))], "address"),
        ("set_rules", Rules((), (), (MethodRule("S/M", extraction_path=(-1,)),)), "extraction_path"),
        ("set_rules", Rules((), (3,)), "peer_services"),
        ("observe", Observing(taps=(Tap(fraction="all"),)), "fraction"),
        ("observe", Observing(tap_secrets=frozenset({1})), "tap_secrets"),
        ("resolve", [(1, Forward("b", Hop.HIT, tried=(1,)))], "tried"),
        ("resolve", [(1, Forward("b", "hit"))], "hop"),
        ("resolve", [(1, Fail(Status.OK, None))], "message"),
        ("resolve", [(1, ("serve",))], "tuple is no resolution"),
    ],
)
async def test_what_has_no_place_is_refused_by_the_name_of_its_field(
    one: Instance, call: str, wrong: Any, named: str
) -> None:
    with pytest.raises((AttributeError, TypeError, OverflowError)) as caught:
        getattr(one.plane, call)(wrong)
    told: BaseException | None = caught.value
    texts = []
    while told is not None:
        texts.append(str(told))
        told = told.__cause__
    assert named in " ".join(texts)


async def test_a_batch_with_something_wrong_in_it_is_not_done_in_part(one: Instance) -> None:
    with pytest.raises(AttributeError):
        one.plane.set_routes([("m", Route(LocalCopy(1, ready=True))), ("n", SimpleNamespace())])  # type: ignore[list-item]
    call = one.unary()(b"", metadata=ID)
    missed = await one.brain.next(Missed)
    one.plane.resolve([(missed.token, Fail(Status.ABORTED, "no route"))])
    with pytest.raises(Exception, match="no route"):
        await call


def test_each_event_of_the_core_has_the_fields_of_its_value() -> None:
    kinds = typing.get_args(events.NativeEvent)
    assert {kind.__name__ for kind in kinds} == {kind.__name__ for kind in typing.get_args(dataplane.DataPlaneEvent)}
    for kind in (*kinds, _native.Span):
        value = getattr(dataplane, kind.__name__)
        fields = {name for name in vars(kind) if not name.startswith("_")}
        assert fields == {field.name for field in dataclasses.fields(value)}, kind


def test_events_are_made_by_the_core_alone() -> None:
    with pytest.raises(TypeError):
        _native.Cancelled()
