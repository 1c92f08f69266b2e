"""Tokens of callers: which are believed, and why the others are not."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from modelmesh.adapters.credentials import (
    Claims,
    KeySetAwayError,
    KeySets,
    TokenError,
    is_token,
    issuer_of,
    names_of,
    verify,
)
from modelmesh.adapters.credentials.key_sets import AGAIN_MS, RENEW_MS, TRUSTED_MS
from modelmesh.policy.access import Issuer
from modelmesh.testing.certificates import Authority
from modelmesh.testing.clock import VirtualClock, run_virtual

NOW_S = 1_700_000_000
CORP = Issuer("corp", "https://login.example.org", "mesh", "/keys", leeway_s=60, groups_claim="groups")
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
CLAIMS = {"iss": CORP.url, "aud": "mesh", "sub": "alice", "exp": NOW_S + 600}


def public(key: Any, **more: str) -> dict[str, Any]:
    algorithms = {ec.EllipticCurvePrivateKey: "ES256", rsa.RSAPrivateKey: "RS256", ed25519.Ed25519PrivateKey: "EdDSA"}
    name = next(name for kind, name in algorithms.items() if isinstance(key, kind))
    jwk: dict[str, Any] = jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True)  # type: ignore[call-overload]
    return {**jwk, "kid": "k1", **more}


def signed(key: Any = KEY, algorithm: str = "ES256", headers: Mapping[str, Any] | None = None, **claims: Any) -> bytes:
    body = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode(body, key, algorithm, headers={"kid": "k1", **(headers or {})}).encode()


def read(token: bytes, *keys: Mapping[str, Any], now_s: float = NOW_S) -> Claims:
    issuer, _ = issuer_of(token, [CORP])
    return verify(token, issuer, keys or (public(KEY),), now_ms=int(now_s * 1000))


def test_a_token_says_who_calls_and_how_long_it_holds() -> None:
    assert read(signed(groups=["readers"])) == Claims("alice", ("readers",), 660_000)
    assert read(signed(aud=["other", "mesh"])) == Claims("alice", (), 660_000)
    assert issuer_of(signed(), [CORP]) == (CORP, "k1")


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (rsa.generate_private_key(65537, 2048), "PS384"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
)
def test_other_public_keys(key: Any, algorithm: str) -> None:
    assert read(signed(key, algorithm), public(KEY), public(key)).subject == "alice"
    with pytest.raises(TokenError, match="not signed by a key of its issuer"):
        read(signed(key, algorithm), public(KEY))


def test_clocks_may_be_apart_by_the_leeway() -> None:
    assert read(signed(exp=NOW_S - 59)).valid_ms == 1000
    assert read(signed(nbf=NOW_S + 60, iat=NOW_S + 60)).subject == "alice"
    with pytest.raises(TokenError, match="the token has expired"):
        read(signed(exp=NOW_S - 60))
    for name in ("nbf", "iat"):
        with pytest.raises(TokenError, match=rf"does not hold yet \({name}\)"):
            read(signed(**{name: NOW_S + 61}))


def forged(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes = b"") -> bytes:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (b"a.b.c", "cannot be read"),
        (b"..", "cannot be read"),
        (forged({"alg": "none"}, CLAIMS), "'none'; only public keys are trusted"),
        (forged({"alg": "None"}, CLAIMS), "only public keys are trusted"),
        (forged({"alg": "ES256"}, CLAIMS), "not signed by a key"),
        (forged({"alg": "ES256"}, CLAIMS, b"\0" * 64), "not signed by a key"),
        (forged({"alg": ["ES256"]}, CLAIMS), "cannot be read|only public keys"),
        # The public key taken for a shared secret.
        (
            forged({"alg": "HS256", "kid": "k1"}, CLAIMS, jwt.get_algorithm_by_name("HS256").sign(b"x", b"k" * 32)),
            "'HS256'",
        ),
        (signed(OTHER), "not signed by a key"),
        # A key that the token brings itself.
        (signed(OTHER, headers={"jwk": public(OTHER)}), "not signed by a key"),
        (signed(headers={"crit": ["exp"]}), "cannot be read"),
        (signed(iss="https://evil.example.org"), "issuer and audience are not known"),
        (signed(aud="other"), "issuer and audience are not known"),
        (signed(aud=None), "issuer and audience are not known"),
        (signed(exp=None), "has no expiry"),
        (forged({"alg": "ES256"}, ["x"]), "cannot be read"),  # type: ignore[arg-type]
        (signed(sub=None), "claim sub of the token is no name"),
        (signed(sub="a\nb"), "claim sub of the token is no name"),
        (signed(sub="x" * 257), "claim sub of the token is no name"),
        (signed(groups="admins"), "claim groups of the token is no list"),
        (signed(groups=["a", ""]), "claim groups of the token is no name"),
    ],
)
def test_what_is_not_believed(token: bytes, why: str) -> None:
    with pytest.raises(TokenError, match=why):
        read(token)


@pytest.mark.parametrize("value", [True, "soon", 1e300, float("inf")])
def test_a_time_that_is_none(value: Any) -> None:
    header, _, signature = signed().split(b".")
    del signature
    body = base64.urlsafe_b64encode(json.dumps({**CLAIMS, "exp": value}).encode()).rstrip(b"=")
    algorithm = jwt.get_algorithm_by_name("ES256")
    mark = base64.urlsafe_b64encode(algorithm.sign(header + b"." + body, KEY)).rstrip(b"=")
    with pytest.raises(TokenError, match=r"the claim exp of the token is no time|cannot be read"):
        read(b".".join((header, body, mark)))


def test_a_changed_token_is_not_believed() -> None:
    header, _, mark = signed().split(b".")
    body = base64.urlsafe_b64encode(json.dumps({**CLAIMS, "sub": "root"}).encode()).rstrip(b"=")
    with pytest.raises(TokenError, match="not signed"):
        read(b".".join((header, body, mark)))


def test_keys_that_are_not_for_this_are_passed_over() -> None:
    for key in (public(KEY, use="enc"), public(KEY, alg="ES384"), {"kty": "oct", "k": "eA"}, {"kty": "EC"}, {}):
        with pytest.raises(TokenError, match="not signed"):
            read(signed(), key)
    assert read(signed(), {"kty": "EC"}, public(KEY)).subject == "alice"


def test_an_api_key_is_no_token() -> None:
    assert is_token(signed())
    assert not is_token(b"mm_abc")


def test_the_names_of_a_certificate() -> None:
    from cryptography import x509

    issued = Authority().issue("reporting.example.org", "other.example.org")
    der = x509.load_pem_x509_certificate(issued.certificate).public_bytes(serialization.Encoding.DER)
    assert names_of(der) == ("reporting.example.org", "other.example.org", "reporting.example.org")
    assert names_of(b"no certificate") == ()


class Source:
    """A key set that answers what it is told to."""

    def __init__(self) -> None:
        self.answer: bytes | Exception = json.dumps({"keys": [public(KEY)]}).encode()
        self.fetched = 0

    async def get(self, where: str) -> bytes:
        assert where == "/keys"
        self.fetched += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_keys_are_kept_renewed_and_used_while_their_issuer_is_away() -> None:
    async def main() -> None:
        clock, source = VirtualClock(), Source()
        sets = KeySets(clock, source.get)
        assert len(await sets.keys("/keys", "k1")) == 1
        assert len(await sets.keys("/keys", "")) == 1
        assert source.fetched == 1
        assert await sets.keys("/keys", "k2") == []
        assert source.fetched == 1, "a made up id does not make us ask"
        await clock.sleep(AGAIN_MS)
        assert await sets.keys("/keys", "k2") == []
        assert source.fetched == 2, "but it may be a new key"
        source.answer = OSError("away")
        await clock.sleep(RENEW_MS)
        assert len(await sets.keys("/keys", "k1")) == 1
        assert source.fetched == 3
        assert len(await sets.keys("/keys", "k1")) == 1
        assert source.fetched == 3
        await clock.sleep(TRUSTED_MS)
        with pytest.raises(KeySetAwayError, match="/keys cannot be had: OSError: away"):
            await sets.keys("/keys", "k1")

    run_virtual(main())


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b'{"keys": 1}', b'{"keys": [1]}', b"\xff", b"[" * 100_000, json.dumps({"keys": [{}] * 65}).encode()],
)
def test_what_is_no_key_set_is_asked_for_again_later(answer: bytes) -> None:
    async def main() -> None:
        clock, source = VirtualClock(), Source()
        good, source.answer = source.answer, answer
        sets = KeySets(clock, source.get)
        for _ in range(3):
            with pytest.raises(KeySetAwayError):
                await sets.keys("/keys", "k1")
        assert source.fetched == 1
        source.answer = good
        await clock.sleep(AGAIN_MS)
        assert len(await sets.keys("/keys", "k1")) == 1

    run_virtual(main())
