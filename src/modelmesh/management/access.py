"""Who calls, and what they may do, where that is asked for: answers the data plane, and the services of this instance.

The rules are the operator's (`modelmesh.policy.access`); credentials are proved here, by keys, issuers and certificates.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from modelmesh.adapters.credentials import Claims, KeySetAwayError, TokenError, is_token, issuer_of, names_of, verify
from modelmesh.control.tasks import Tasks
from modelmesh.management.rights import NEEDS, Need
from modelmesh.policy.access import (
    AccessRules,
    Issuer,
    Unknown,
    decide,
    highest_priority,
    infer_rights,
    may_everything,
    of_anonymous,
    of_certificate,
    of_key,
    of_token,
)
from modelmesh.ports import Clock, DataPlane
from modelmesh.values.access import Identity, Kind, Listener, Verb
from modelmesh.values.dataplane import Accepted, Asked, Rejected, TenantLimits, Verdict
from modelmesh.values.status import Status

LONGEST_VALID_MS = 300_000
"""A token is looked at again after that, though it may hold longer: its key may have been taken back."""

_DOING = {
    Verb.INFER: "infer with",
    Verb.STATUS: "ask for the status of",
    Verb.LOAD: "load",
    Verb.REGISTER: "register",
    Verb.ADMIN: "administer",
}

Keys = Callable[[str, str], Awaitable[Sequence[Any]]]
"""The public keys at a place, with an id or (empty) all. Raises KeySetAwayError."""


class Access:
    """The access rules in force.

    Args:
        dataplane: Asks whose credentials are, and holds the answers.
        clock: For the expiry of tokens.
        tasks: Where questions wait for the keys of an issuer.
        keys: Finds those keys.
    """

    def __init__(self, *, dataplane: DataPlane, clock: Clock, tasks: Tasks, keys: Keys) -> None:
        self._dataplane = dataplane
        self._clock = clock
        self._tasks = tasks
        self._keys = keys
        self._rules: AccessRules | None = None

    def use(self, rules: AccessRules) -> None:
        """From now on these rules hold, for calls whose credentials were known as well. Calls that run continue."""
        self._rules = rules
        self._dataplane.set_access(
            [TenantLimits(one.name, one.calls_per_second, one.calls_at_once) for one in rules.tenants.values()]
        )

    def asked(self, event: Asked) -> None:
        """A call has a credential that the data plane does not know."""
        rules = self._rules
        if rules is None:
            self._answer(event, Rejected(Status.UNAVAILABLE, "the access rules are being read; try again", kept=False))
        elif self._is_token(rules, event):
            self._tasks.start(self._prove(event), "prove a token")
        else:
            self._answer(event, self._known(rules, event))

    def may(self, identity: Identity, listener: Listener, verb: Verb, kind: Kind, name: str) -> bool:
        """Whether a caller may do something."""
        return self._rules is not None and decide(self._rules, identity, verb, kind, name, listener).allowed

    def denial(self, identity: Identity, listener: Listener, needs: Sequence[Need]) -> str:
        """Why a caller may not do all of something, without naming what exists; empty: they may."""
        for need in needs:
            if need.name is None:
                if not self._may_everything(identity, listener, need):
                    return f"{identity.name} may not {_DOING[need.verb]} all {need.kinds[0].value}s"
            elif not any(self.may(identity, listener, need.verb, kind, need.name) for kind in need.kinds):
                kinds = " or ".join(kind.value for kind in need.kinds)
                return f"{identity.name} may not {_DOING[need.verb]} {kinds} {need.name}"
        return ""

    def _may_everything(self, identity: Identity, listener: Listener, need: Need) -> bool:
        rules = self._rules
        return rules is not None and any(
            may_everything(rules, identity, need.verb, kind, listener) for kind in need.kinds
        )

    def needs_of(self, method: str, request: Any) -> Sequence[Need] | None:
        """What a call needs; None: no caller with a credential may make it."""
        needs = NEEDS.get(method)
        return None if needs is None else needs(request)

    def _is_token(self, rules: AccessRules, event: Asked) -> bool:
        """A token of an issuer; API keys of any form are known by their hashes."""
        return (
            not event.certificate
            and bool(rules.issuers)
            and is_token(event.credential)
            and isinstance(of_key(rules, _text(event.credential)), Unknown)
        )

    def _known(self, rules: AccessRules, event: Asked) -> Verdict:
        if event.certificate:
            return self._verdict(rules, of_certificate(rules, names_of(event.credential)))
        if not event.credential:
            return self._verdict(rules, of_anonymous(rules))
        return self._verdict(rules, of_key(rules, _text(event.credential)))

    async def _prove(self, event: Asked) -> None:
        rules = self._rules
        assert rules is not None
        try:
            issuer, kid = issuer_of(event.credential, rules.issuers)
            keys = await self._keys(issuer.key_set, kid)
            claims = verify(event.credential, issuer, keys, now_ms=self._clock.now_ms())
        except TokenError as error:
            self._answer(event, Rejected(Status.UNAUTHENTICATED, str(error)))
        except KeySetAwayError:
            # Only the operator may see where the keys are.
            message = f"the keys of issuer {issuer.name} cannot be had now; try again"
            self._answer(event, Rejected(Status.UNAVAILABLE, message, kept=False))
        else:
            self._answer(event, self._proved(issuer, claims))

    def _proved(self, issuer: Issuer, claims: Claims) -> Verdict:
        rules = self._rules
        assert rules is not None
        if issuer not in rules.issuers:  # the rules changed meanwhile
            return Rejected(Status.UNAUTHENTICATED, "the token's issuer and audience are not known here")
        identity = of_token(rules, issuer, claims.subject, claims.groups)
        return self._verdict(rules, identity, min(claims.valid_ms, LONGEST_VALID_MS))

    def _verdict(self, rules: AccessRules, identity: Identity | Unknown, valid_ms: int | None = None) -> Verdict:
        if isinstance(identity, Unknown):
            return Rejected(Status.UNAUTHENTICATED, identity.reason)
        return Accepted(identity, infer_rights(rules, identity), highest_priority(rules, identity).priority, valid_ms)

    def _answer(self, event: Asked, verdict: Verdict) -> None:
        self._dataplane.answer_asked(event.token, verdict)


def _text(credential: bytes) -> str:
    return credential.decode("utf-8", "surrogateescape")
