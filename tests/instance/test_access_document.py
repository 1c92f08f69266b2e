"""The access document: what it says, and what is wrong with it."""

import json

import pytest

from modelmesh.instance.access_document import parse_access
from modelmesh.policy.access import AccessRules, Grant, Issuer, Tenant
from modelmesh.values.access import Identity, Listener, Verb
from modelmesh.values.memory import Memory
from modelmesh.values.priority import Priority

HASH = "sha256:" + "0f" * 32

WHOLE = f"""
tenants:
  finance: {{calls_per_second: 100, calls_at_once: 20, models: 5, loaded_bytes: 10GiB, priority: high}}
  research: {{}}
issuers:
  - name: corp
    url: https://login.example.org
    audience: modelmesh
    key_set: https://login.example.org/keys
    groups_claim: groups
    tenant: research
principals:
  - name: reporting
    tenant: finance
    keys: [{HASH}]
    certificates: [reporting.example.org]
  - {{name: guest, anonymous: true, priority: low}}
  - {{name: ops, groups: [admins], tokens: ["corp:alice"]}}
grants:
  - to: [reporting, "corp:bob", "group:corp:readers"]
    verbs: [infer, status]
    models: ["fraud-*"]
    vmodels: [fraud]
    listeners: [rest]
  - {{to: ["group:admins"], verbs: [admin], models: ["*"]}}
"""


def test_a_whole_document() -> None:
    assert parse_access(WHOLE) == AccessRules(
        principals={
            "reporting": Identity("reporting", tenant="finance"),
            "guest": Identity("guest"),
            "ops": Identity("ops", ("admins",)),
        },
        keys={"0f" * 32: "reporting"},
        certificates={"reporting.example.org": "reporting"},
        tokens={"corp:alice": "ops"},
        anonymous="guest",
        issuers=(
            Issuer(
                "corp",
                "https://login.example.org",
                "modelmesh",
                "https://login.example.org/keys",
                groups_claim="groups",
                tenant="research",
            ),
        ),
        grants=(
            Grant(
                ("reporting", "corp:bob", "group:corp:readers"),
                frozenset({Verb.INFER, Verb.STATUS}),
                ("fraud-*",),
                ("fraud",),
                frozenset({Listener.REST}),
            ),
            Grant(("group:admins",), frozenset({Verb.ADMIN}), ("*",)),
        ),
        tenants={
            "finance": Tenant("finance", 100.0, 20, 5, Memory(10 << 30), Priority.HIGH),
            "research": Tenant("research"),
        },
        priorities={"guest": Priority.LOW},
    )


def test_json_is_read_as_well_and_an_empty_document_allows_nothing() -> None:
    body = {"principals": [{"name": "a", "keys": [HASH]}]}
    assert parse_access(json.dumps(body)).keys == {"0f" * 32: "a"}
    assert parse_access("") == AccessRules()


def principals(*entries: str) -> str:
    return "principals: [" + ", ".join(entries) + "]"


def grants(*entries: str) -> str:
    return "principals: [{name: a}]\ngrants: [" + ", ".join(entries) + "]"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1]", "the document: it must be a mapping with principals, issuers, grants and tenants"),
        ("a: &x 1\nb: *x", r"line 2: aliases \(\*name\) are not taken; write the value out"),
        ("grants: []\ngrants: []", "line 2: 'grants' is here twice"),
        ('{"grants": [], "grants": []}', "'grants' stands twice in one mapping"),
        ("[" * 100, "line 1: it is nested deeper than 16"),
        ('{"a":' * 100_000, "it is nested too deeply|Expecting|recursion"),
        ("grants: {", "line 2: "),
        ("users: []", "users: Extra inputs are not permitted"),
        (principals("{name: a, keys: [secret]}"), "principals.0.keys.0: String should match pattern"),
        (principals("{name: a, anonymous: yes please}"), "principals.0.anonymous: Input should be a valid boolean"),
        (principals("{name: a, priority: urgent}"), "principals.0.priority: Input should be 'high', 'normal' or 'low'"),
        (principals("{name: 'a:b'}"), "principals.0.name: String should match pattern"),
        (principals("{name: a}", "{name: a}"), "principals.1: the principal a stands twice"),
        (
            principals(f"{{name: a, keys: ['{HASH}']}}", f"{{name: b, keys: ['{HASH}']}}"),
            "principals.1.keys.0: it is a's already; a credential has one principal",
        ),
        (
            principals("{name: a, anonymous: true}", "{name: b, anonymous: true}"),
            "a is anonymous; one principal may be",
        ),
        (principals("{name: a, tenant: t}"), "principals.0.tenant: there is no tenant t; list it under tenants"),
        (grants("{to: [b], verbs: [infer], models: [m]}"), "grants.0.to.0: there is no principal b"),
        (grants("{to: ['group:b'], verbs: [infer], models: [m]}"), "grants.0.to.0: there is no group b"),
        (grants("{to: ['corp:b'], verbs: [infer], models: [m]}"), "grants.0.to.0: there is no principal corp:b"),
        (grants("{to: [a], verbs: [infer]}"), "grants.0: it names no models and no vmodels"),
        (grants("{to: [a], verbs: [call], models: [m]}"), "grants.0.verbs.0: Input should be 'infer', 'status'"),
        (grants("{to: [a], verbs: [infer], models: ['a*b']}"), "grants.0.models.0: String should match pattern"),
        ("tenants: {t: {calls_per_second: 0}}", "tenants.t.calls_per_second: Input should be greater than 0"),
        ("tenants: {t: {calls_per_second: .nan}}", "tenants.t.calls_per_second: "),
        ("tenants: {t: {loaded_bytes: 10 GB}}", "tenants.t.loaded_bytes"),
        ("issuers: [{name: c, url: u, audience: a, key_set: 'http://x'}]", "issuers.0.key_set: String should match"),
    ],
)
def test_a_problem_is_named_with_its_path(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_access(text)


def test_many_problems_are_told_together_up_to_ten() -> None:
    with pytest.raises(ValueError, match=r"^principals.0.tenant: .*; principals.9.tenant: [^;]*; [^;]*; and 2 more$"):
        parse_access(principals(*(f"{{name: a{number}, tenant: t}}" for number in range(12))))
