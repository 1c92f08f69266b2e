"""Signed tokens (JWT): their claims, after the signature was verified.

Source: RFC 7519, RFC 7515 and RFC 8725 (best practices). Signatures are checked by PyJWT, times here, so that the clock is an
argument.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelmesh.policy.access import Issuer

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""With a public key each. `none` and those with a shared secret would let everyone sign who knows the public key."""

LONGEST_NAME = 256
MOST_GROUPS = 256
MOST_KEYS = 8
"""That are tried for a token that does not name its key."""


class TokenError(Exception):
    """The token is not valid; the message has the reason, and its sender may see it."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of a token. `valid_ms`: how long it is still valid, leeway included."""

    subject: str
    groups: tuple[str, ...]
    valid_ms: int


def is_token(credential: bytes) -> bool:
    """Whether it has the form of a token. API keys have no dots."""
    return credential.count(b".") == 2


def issuer_of(token: bytes, issuers: Sequence[Issuer]) -> tuple[Issuer, str]:
    """The issuer that a token names, and the id of its key (empty: it names none). Nothing is proved yet.

    Raises:
        TokenError: It is no token, or its issuer is unknown.
    """
    import jwt  # noqa: PLC0415 - it imports cryptography: 10 MB that instances without tokens save

    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise TokenError("the token cannot be read") from error
    if header.get("alg") not in ALGORITHMS:
        raise TokenError(f"the token is signed by {str(header.get('alg'))[:16]!r}; only public keys are trusted")
    audiences = claims.get("aud")
    for issuer in issuers:
        if claims.get("iss") == issuer.url and issuer.audience in (
            audiences if isinstance(audiences, list) else [audiences]
        ):
            kid = header.get("kid", "")
            return issuer, kid if isinstance(kid, str) else ""
    raise TokenError("the token's issuer and audience are not known here")


def verify(token: bytes, issuer: Issuer, keys: Sequence[Mapping[str, Any]], *, now_ms: int) -> Claims:
    """The claims of a token of an issuer.

    Args:
        token: It names this issuer.
        issuer: How its claims are to be read.
        keys: Of the issuer (JWK); those with the id that the token names, else all.
        now_ms: Epoch milliseconds.

    Raises:
        TokenError: It is not signed by one of the keys, is not valid now, or names no caller.
    """
    claims = _signed(token, issuer, keys)
    now_s = now_ms / 1000
    expires_s = _time(claims, "exp")
    if expires_s is None:
        raise TokenError("the token has no expiry")
    if expires_s + issuer.leeway_s <= now_s:
        raise TokenError("the token has expired")
    for name in ("nbf", "iat"):
        from_s = _time(claims, name)
        if from_s is not None and from_s - issuer.leeway_s > now_s:
            raise TokenError(f"the token does not hold yet ({name})")
    valid_ms = (expires_s + issuer.leeway_s) * 1000 - now_ms
    return Claims(
        _name(claims.get(issuer.principal_claim), issuer.principal_claim),
        _groups(claims, issuer.groups_claim),
        int(min(valid_ms, 2**53)),
    )


def _signed(token: bytes, issuer: Issuer, keys: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    import jwt  # noqa: PLC0415 - as above

    algorithm = jwt.get_unverified_header(token)["alg"]
    for key in keys[:MOST_KEYS]:
        if key.get("kty") == "oct" or key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
            continue
        try:
            known = jwt.PyJWK(dict(key), algorithm=algorithm)
            return jwt.decode(
                token,
                known,
                algorithms=[algorithm],
                audience=issuer.audience,
                issuer=issuer.url,
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue  # another key, or an unknown one
    raise TokenError("the token is not signed by a key of its issuer")


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e12:
        raise TokenError(f"the claim {name} of the token is no time")
    return float(value)


def _name(value: object, claim: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or not value.isprintable():
        raise TokenError(f"the claim {claim} of the token is no name")
    return value


def _groups(claims: Mapping[str, Any], claim: str) -> tuple[str, ...]:
    groups = claims.get(claim, []) if claim else []
    if not isinstance(groups, list) or len(groups) > MOST_GROUPS:
        raise TokenError(f"the claim {claim} of the token is no list of groups")
    return tuple(_name(group, claim) for group in groups)
