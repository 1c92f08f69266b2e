"""Who may do what, rule by rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.access import (
    AccessRules,
    Decision,
    Grant,
    Highest,
    Issuer,
    Tenant,
    Unknown,
    decide,
    hash_of_key,
    highest_priority,
    infer_rights,
    matches,
    may_everything,
    of_anonymous,
    of_certificate,
    of_key,
    of_token,
)
from modelmesh.values.access import Identity, InferRight, Kind, Listener, Verb
from modelmesh.values.priority import Priority

REPORTING = Identity("reporting", tenant="finance")
GUEST = Identity("guest")
OPS = Identity("ops", ("admins",))
CORP = Issuer("corp", "https://login.example.org", "modelmesh", "/keys.json", tenant="staff")
RULES = AccessRules(
    principals={"reporting": REPORTING, "guest": GUEST, "ops": OPS},
    keys={hash_of_key("k1"): "reporting"},
    certificates={"ops.example.org": "ops"},
    tokens={"corp:alice": "ops"},
    issuers=(CORP,),
    grants=(
        Grant(("reporting",), frozenset({Verb.INFER}), models=("fraud-*", "risk")),
        Grant(("reporting",), frozenset({Verb.LOAD}), vmodels=("fraud",), listeners=frozenset({Listener.GRPC})),
        Grant(("group:admins", "group:corp:admins"), frozenset({Verb.ADMIN}), models=("*",)),
        Grant(("corp:bob",), frozenset({Verb.INFER}), models=("bobs",)),
    ),
)


def allowed(
    who: Identity,
    verb: Verb,
    name: str,
    kind: Kind = Kind.MODEL,
    by: Listener = Listener.GRPC,
    rules: AccessRules = RULES,
) -> bool:
    return decide(rules, who, verb, kind, name, by).allowed


def test_a_pattern_is_a_name_or_its_beginning() -> None:
    assert allowed(REPORTING, Verb.INFER, "fraud-7")
    assert allowed(REPORTING, Verb.INFER, "fraud-")
    assert allowed(REPORTING, Verb.INFER, "risk")
    assert not allowed(REPORTING, Verb.INFER, "risk2")
    assert not allowed(REPORTING, Verb.INFER, "fraud")
    assert not allowed(REPORTING, Verb.INFER, "fraud", Kind.VMODEL)


def test_every_verb_allows_to_ask_for_the_status_and_no_other() -> None:
    assert allowed(REPORTING, Verb.STATUS, "risk")
    assert allowed(REPORTING, Verb.STATUS, "fraud", Kind.VMODEL)
    assert not allowed(REPORTING, Verb.LOAD, "risk")
    assert not allowed(OPS, Verb.INFER, "risk")


def test_a_grant_may_be_for_one_listener() -> None:
    assert allowed(REPORTING, Verb.LOAD, "fraud", Kind.VMODEL, Listener.GRPC)
    assert not allowed(REPORTING, Verb.LOAD, "fraud", Kind.VMODEL, Listener.REST)
    assert not allowed(REPORTING, Verb.STATUS, "fraud", Kind.VMODEL, Listener.REST)


def test_a_group_is_no_principal_of_its_name() -> None:
    assert allowed(OPS, Verb.ADMIN, "x")
    assert not allowed(Identity("admins"), Verb.ADMIN, "x")
    assert not allowed(Identity("x", ("reporting",)), Verb.INFER, "risk")


def test_the_reason_names_the_grant() -> None:
    assert decide(RULES, REPORTING, Verb.INFER, Kind.MODEL, "fraud-7", Listener.GRPC) == Decision(
        True, "grants[0] allows it for models fraud-*"
    )
    assert decide(RULES, REPORTING, Verb.ADMIN, Kind.MODEL, "risk", Listener.REST) == Decision(
        False, "grants[0], grants[1] of reporting do not allow admin of it by rest"
    )
    assert decide(RULES, GUEST, Verb.INFER, Kind.MODEL, "x", Listener.GRPC) == Decision(
        False, "no grant names guest or a group of it"
    )


def test_credentials_become_identities() -> None:
    assert of_key(RULES, "k1") == REPORTING
    assert of_key(RULES, "k2") == Unknown("the API key is unknown")
    assert of_certificate(RULES, ["x", "ops.example.org"]) == OPS
    assert of_certificate(RULES, ["x"]) == Unknown("the client certificate has no name that is known here")
    assert isinstance(of_anonymous(RULES), Unknown)
    open_rules = AccessRules(principals={"guest": GUEST}, anonymous="guest")
    assert of_anonymous(open_rules) == GUEST
    assert of_certificate(open_rules, ["x"]) == GUEST


def test_a_token_names_a_principal_of_its_issuer_unless_the_document_lists_it() -> None:
    bob = of_token(RULES, CORP, "bob", ["readers"])
    assert bob == Identity("corp:bob", ("corp:readers",), "staff")
    assert allowed(bob, Verb.INFER, "bobs")
    assert of_token(RULES, CORP, "alice", []) == OPS
    carol = of_token(RULES, CORP, "carol", ["admins"])
    assert allowed(carol, Verb.ADMIN, "x")
    # A token cannot become a principal or a group of the document by its own words.
    assert not allowed(of_token(RULES, CORP, "reporting", ["reporting"]), Verb.INFER, "risk")


def test_everything_takes_a_grant_of_all_models() -> None:
    assert may_everything(RULES, OPS, Verb.STATUS, Kind.MODEL, Listener.REST)
    assert not may_everything(RULES, OPS, Verb.STATUS, Kind.VMODEL, Listener.REST)
    assert not may_everything(RULES, OPS, Verb.REGISTER, Kind.MODEL, Listener.REST)
    assert not may_everything(RULES, REPORTING, Verb.STATUS, Kind.MODEL, Listener.GRPC)


NAMES = st.text("ab*", max_size=4)
GRANTS = st.builds(
    Grant,
    st.lists(st.sampled_from(["*", "a", "b", "group:a", "group:b"]), min_size=1, max_size=2).map(tuple),
    st.frozensets(st.sampled_from(Verb), min_size=1),
    st.lists(NAMES, max_size=3).map(tuple),
    st.lists(NAMES, max_size=3).map(tuple),
    st.frozensets(st.sampled_from(Listener), min_size=1),
)


@given(
    st.lists(GRANTS, max_size=4).map(tuple),
    st.builds(Identity, st.sampled_from("abc"), st.lists(st.sampled_from("abc"), max_size=2).map(tuple)),
    NAMES,
    st.sampled_from(Kind),
    st.sampled_from(Listener),
)
def test_the_rights_that_the_core_gets_say_what_the_decision_says(
    grants: tuple[Grant, ...], who: Identity, name: str, kind: Kind, listener: Listener
) -> None:
    rules = AccessRules(grants=grants)
    rights = infer_rights(rules, who)
    by_rights = any(
        right.kind is kind and listener in right.listeners and matches(right.pattern, name) for right in rights
    )
    assert by_rights == allowed(who, Verb.INFER, name, kind, listener, rules)


@pytest.mark.parametrize("verb", Verb)
def test_rights_to_infer_come_from_that_verb_alone(verb: Verb) -> None:
    rules = AccessRules(grants=(Grant(("*",), frozenset({verb}), ("m",), ("v",), frozenset({Listener.REST})),))
    rest = frozenset({Listener.REST})
    expected = (InferRight("m", Kind.MODEL, rest), InferRight("v", Kind.VMODEL, rest)) if verb is Verb.INFER else ()
    assert infer_rights(rules, GUEST) == expected


def test_the_highest_class_is_the_principals_own_or_its_tenants_or_the_usual_one() -> None:
    rules = AccessRules(
        tenants={"urgent": Tenant("urgent", priority=Priority.HIGH), "plain": Tenant("plain")},
        priorities={"batch": Priority.LOW, "ops": Priority.HIGH},
    )
    for identity, highest in [
        (Identity("anybody"), Highest(Priority.NORMAL, "by default")),
        (Identity("anybody", tenant="plain"), Highest(Priority.NORMAL, "by default")),
        (Identity("anybody", tenant="gone"), Highest(Priority.NORMAL, "by default")),
        (Identity("corp:alice", tenant="urgent"), Highest(Priority.HIGH, "by tenant urgent")),
        (Identity("batch", tenant="urgent"), Highest(Priority.LOW, "by principal batch")),
        (Identity("ops", tenant="plain"), Highest(Priority.HIGH, "by principal ops")),
    ]:
        assert highest_priority(rules, identity) == highest
