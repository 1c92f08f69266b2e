"""The simulator finds bugs in what instances know: each invariant of the view broken on purpose, and caught."""

import pytest
from test_simulator import FAULTY_S, SEEDS

from modelmesh.control.live_config import LiveConfig
from modelmesh.control.names import Names, VModelFeed
from modelmesh.control.registry import RegistryFeed
from modelmesh.control.state import Changed, ClusterState
from modelmesh.control.supervise import Supervisor
from modelmesh.testing.faults import Faults
from modelmesh.testing.simulation import simulate
from modelmesh.testing.world import World
from modelmesh.values import bounds
from modelmesh.values.dataplane import Outcome


def found(monkeypatch: pytest.MonkeyPatch, problem: str, *kinds: str) -> None:
    """One of the first seeds, with only these kinds of faults, ends in this problem."""
    begin = Faults.__init__

    def few(faults: Faults, world: World) -> None:
        begin(faults, world)
        faults.kinds = {kind: faults.kinds[kind] for kind in kinds}

    monkeypatch.setattr(Faults, "__init__", few)
    problems = []
    for seed in SEEDS:
        outcome = simulate(seed, faulty_s=FAULTY_S)
        problems.append(outcome.problem)
        if problem in outcome.problem:
            return
    raise AssertionError(f"{problem!r} was not found, but {problems}")


def test_a_name_that_keeps_its_model_though_the_instance_has_seen_it_move(monkeypatch: pytest.MonkeyPatch) -> None:
    tell = Names.tell

    def once(names: Names, vmodel, stored) -> None:
        known = names.__dict__.setdefault("told", set())
        if stored is None or vmodel not in known:
            tell(names, vmodel, stored)
        (known.discard if stored is None else known.add)(vmodel)

    monkeypatch.setattr(Names, "tell", once)
    found(monkeypatch, "names: a call for", "vmodel_moved", "relist")


def test_names_that_a_listing_does_not_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VModelFeed, "replace", lambda *_: None)
    found(monkeypatch, "name-", "relist", "vmodel_moved")


def test_settings_that_a_listing_does_not_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveConfig, "replace", lambda *_: None)
    found(monkeypatch, "knows the settings", "relist", "setting_changed")


def test_records_that_a_listing_does_not_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RegistryFeed, "replace", lambda *_: None)
    found(monkeypatch, "remembers model", "relist", "model_registered_again")


def test_a_view_that_a_listing_only_adds_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(state: ClusterState, items, revision, *, replaced: bool = False) -> Changed:
        changed = Changed()
        for item in items:
            state._put(item, changed)
        state.revision = revision
        return changed

    monkeypatch.setattr(ClusterState, "load", add)
    found(monkeypatch, "at rest", "relist", "instance_crash", "instance_join")


def test_numbers_in_the_store_that_nobody_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds.Range, "check", lambda _range, _name, value: value)
    found(monkeypatch, "has no place in", "extreme_copy")


def test_numbers_of_runtimes_that_nobody_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "concurrency", lambda said: said)
    found(monkeypatch, "mistakes: ", "extreme_runtime")


def test_a_loop_that_ends_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "_failed", lambda *_: None)
    found(monkeypatch, "have not seen the store's newest revision", "raises")


def test_an_instance_that_cannot_go_on_and_says_that_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "alive", lambda _: True)
    found(monkeypatch, "cannot go on and says that it is ready", "raises_always", "instance_join")


def test_words_that_are_not_known_and_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outcome, "_missing_", classmethod(lambda *_: None))
    found(monkeypatch, "is not a valid Outcome", "unknown_words", "partition", "instance_drain", "watch_lag")
