"""The simulator finds bugs in what instances know: each invariant of the view broken on purpose, and caught."""

import pytest
from test_simulator import found, only

from modelmesh.control.copies.registry import RegistryFeed
from modelmesh.control.supervise import Supervisor
from modelmesh.control.view.live_config import LiveConfig
from modelmesh.control.view.names import Names, VModelFeed
from modelmesh.control.view.state import Changed, ClusterState
from modelmesh.values import bounds
from modelmesh.values.dataplane import Outcome


def test_a_name_that_keeps_its_model_though_the_instance_has_seen_it_move(monkeypatch: pytest.MonkeyPatch) -> None:
    tell = Names.send

    def once(names: Names, vmodel, stored) -> None:
        known = names.__dict__.setdefault("told", set())
        if stored is None or vmodel not in known:
            tell(names, vmodel, stored)
        (known.discard if stored is None else known.add)(vmodel)

    monkeypatch.setattr(Names, "send", once)
    only(monkeypatch, "vmodel_moved", "relist")
    found("names: a call for")


def test_names_that_a_listing_does_not_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VModelFeed, "replace", lambda *_: None)
    only(monkeypatch, "relist", "vmodel_moved")
    found("name-")


def test_settings_that_a_listing_does_not_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveConfig, "replace", lambda *_: None)
    only(monkeypatch, "relist", "setting_changed")
    found("knows the settings")


def test_records_that_a_listing_does_not_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RegistryFeed, "replace", lambda *_: None)
    only(monkeypatch, "relist", "model_registered_again")
    found("remembers model")


def test_a_view_that_a_listing_only_adds_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(state: ClusterState, items, revision, *, replaced: bool = False) -> Changed:
        changed = Changed()
        for item in items:
            state._put(item, changed)
        state.revision = revision
        return changed

    monkeypatch.setattr(ClusterState, "load", add)
    only(monkeypatch, "relist", "instance_crash", "instance_join")
    found("at rest")


def test_numbers_in_the_store_that_nobody_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds.Range, "check", lambda _range, _name, value: value)
    only(monkeypatch, "extreme_copy")
    found("has no place in")


def test_numbers_of_runtimes_that_nobody_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "concurrency", lambda said: said)
    only(monkeypatch, "extreme_runtime")
    found("mistakes: ")


def test_a_loop_that_ends_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "_failed", lambda *_: None)
    only(monkeypatch, "raises")
    found("have not seen the store's newest revision")


def test_an_instance_that_cannot_go_on_and_says_that_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "alive", lambda _: True)
    only(monkeypatch, "raises_always", "instance_join")
    found("cannot go on and says that it is ready")


def test_words_that_are_not_known_and_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outcome, "_missing_", classmethod(lambda *_: None))
    only(monkeypatch, "unknown_words", "model_corrupt", "model_vanished", "load_failed")
    found("is not a valid Outcome")
