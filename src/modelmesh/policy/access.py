"""Who may do what: from a credential's facts to an identity, and from an identity to a decision with its reason.

The operator's document `access.yaml` (`modelmesh.instance.access_document`) becomes `AccessRules`. Called by
`modelmesh.management.access`, which proves credentials first, and by `modelmesh access check`. The core has a copy of the
rights to infer of each credential in use (`crates/core/src/access`), so that a call does not wait for Python.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modelmesh.values.access import Identity, InferRight, Kind, Listener, Verb
from modelmesh.values.memory import Memory
from modelmesh.values.priority import Priority

KEY_HASH = "sha256:"
"""How the hash of a key begins in the document. Keys are random and long, so a key cannot be found from its plain hash."""

GROUP = "group:"
"""How a grant names a group, as against a principal."""

ANY = "*"


@dataclass(frozen=True, slots=True)
class Grant:
    """Principals and groups may do some things with names that match. A pattern is a name, or its beginning and `*`."""

    to: tuple[str, ...]
    verbs: frozenset[Verb]
    models: tuple[str, ...] = ()
    vmodels: tuple[str, ...] = ()
    listeners: frozenset[Listener] = frozenset(Listener)

    def patterns(self, kind: Kind) -> tuple[str, ...]:
        """Those of one kind of names."""
        return self.models if kind is Kind.MODEL else self.vmodels


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs tokens (JWT).

    Args:
        name: In front of its principals and groups: `corp:alice`.
        url: The claim `iss`.
        audience: The claim `aud` must have it.
        key_set: Where its public keys are: an `https://` address or a file, in JWKS form.
        leeway_s: How far its clock and ours may be apart.
        principal_claim: Has the name of the caller.
        groups_claim: Has a list of names; empty: no groups.
        tenant: Of its principals that the document does not list.
    """

    name: str
    url: str
    audience: str
    key_set: str
    leeway_s: int = 60
    principal_claim: str = "sub"
    groups_claim: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Tenant:
    """What the principals of a tenant may use together (None: as much as there is), and the highest class of their calls."""

    name: str
    calls_per_second: float | None = None
    calls_at_once: int | None = None
    models: int | None = None
    loaded: Memory | None = None
    priority: Priority | None = None


@dataclass(frozen=True, slots=True)
class AccessRules:
    """A document.

    `keys` by the hash in hexadecimal, `tokens` by `issuer:principal`; `anonymous`: who gives no credential; `priorities`: the
    highest class of the calls of principals that have one of their own.
    """

    principals: Mapping[str, Identity] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    certificates: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    anonymous: str = ""
    issuers: tuple[Issuer, ...] = ()
    grants: tuple[Grant, ...] = ()
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    priorities: Mapping[str, Priority] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Highest:
    """The highest class that the calls of an identity may have. `reason` is for the operator: where that comes from."""

    priority: Priority
    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The credential belongs to no principal, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason` is for the operator: which grant allows it, or why none does."""

    allowed: bool
    reason: str


def hash_of_key(key: str) -> str:
    """The hash of an API key, in hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def of_anonymous(rules: AccessRules) -> Identity | Unknown:
    """Who calls without a credential."""
    if not rules.anonymous:
        return Unknown("the call has no credential; send an API key or a token in the header authorization")
    return rules.principals[rules.anonymous]


def of_key(rules: AccessRules, key: str) -> Identity | Unknown:
    """The principal of an API key."""
    name = rules.keys.get(hash_of_key(key))
    return Unknown("the API key is unknown") if name is None else rules.principals[name]


def of_certificate(rules: AccessRules, names: Sequence[str]) -> Identity | Unknown:
    """The principal of a certificate: of the first of its names that the document has; without one, as without a credential."""
    for name in names:
        if (principal := rules.certificates.get(name)) is not None:
            return rules.principals[principal]
    if rules.anonymous:
        return rules.principals[rules.anonymous]
    return Unknown("the client certificate has no name that is known here")


def of_token(rules: AccessRules, issuer: Issuer, subject: str, groups: Iterable[str]) -> Identity:
    """The principal of a token whose signature has been verified."""
    name = f"{issuer.name}:{subject}"
    prefixed = tuple(f"{issuer.name}:{group}" for group in groups)
    listed = rules.tokens.get(name)
    if listed is None:
        return Identity(name, prefixed, issuer.tenant)
    known = rules.principals[listed]
    return Identity(known.name, (*known.groups, *prefixed), known.tenant)


def matches(pattern: str, name: str) -> bool:
    """Whether a name has a pattern's form."""
    return name.startswith(pattern[:-1]) if pattern.endswith(ANY) else name == pattern


def decide(rules: AccessRules, identity: Identity, verb: Verb, kind: Kind, name: str, listener: Listener) -> Decision:
    """Whether an identity may do something, and by which grant. The first that allows it does."""
    mine = [(number, grant) for number, grant in enumerate(rules.grants) if _is_to(grant, identity)]
    if not mine:
        return Decision(allowed=False, reason=f"no grant names {identity.name} or a group of it")
    for number, grant in mine:
        if listener not in grant.listeners or not (verb in grant.verbs or verb is Verb.STATUS):
            continue
        for pattern in grant.patterns(kind):
            if matches(pattern, name):
                return Decision(allowed=True, reason=f"grants[{number}] allows it for {kind.value}s {pattern}")
    numbers = ", ".join(f"grants[{number}]" for number, _ in mine)
    return Decision(
        allowed=False, reason=f"{numbers} of {identity.name} do not allow {verb.value} of it by {listener.value}"
    )


def may_everything(rules: AccessRules, identity: Identity, verb: Verb, kind: Kind, listener: Listener) -> bool:
    """Whether a grant allows something with all names of a kind: what questions about the whole cluster need."""
    return any(
        _is_to(grant, identity)
        and listener in grant.listeners
        and (verb in grant.verbs or verb is Verb.STATUS)
        and ANY in grant.patterns(kind)
        for grant in rules.grants
    )


def highest_priority(rules: AccessRules, identity: Identity) -> Highest:
    """The highest class that the calls of an identity may have: its own, else its tenant's, else the usual one.

    So a caller that the operator has not named does not get before others.
    """
    if (own := rules.priorities.get(identity.name)) is not None:
        return Highest(own, f"by principal {identity.name}")
    tenant = rules.tenants.get(identity.tenant)
    if tenant is not None and tenant.priority is not None:
        return Highest(tenant.priority, f"by tenant {tenant.name}")
    return Highest(Priority.NORMAL, "by default")


def infer_rights(rules: AccessRules, identity: Identity) -> tuple[InferRight, ...]:
    """All patterns under which an identity may infer, for the core."""
    return tuple(
        InferRight(pattern, kind, grant.listeners)
        for grant in rules.grants
        if Verb.INFER in grant.verbs and _is_to(grant, identity)
        for kind in Kind
        for pattern in grant.patterns(kind)
    )


def _is_to(grant: Grant, identity: Identity) -> bool:
    return any(
        to.removeprefix(GROUP) in identity.groups if to.startswith(GROUP) else to in (ANY, identity.name)
        for to in grant.to
    )
