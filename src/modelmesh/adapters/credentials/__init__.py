"""Proves what callers show: tokens by the keys of their issuers, certificates by what TLS has verified."""

from modelmesh.adapters.credentials.certificates import names_of
from modelmesh.adapters.credentials.key_sets import KeySetAwayError, KeySets
from modelmesh.adapters.credentials.tokens import Claims, TokenError, is_token, issuer_of, verify

__all__ = ["Claims", "KeySetAwayError", "KeySets", "TokenError", "is_token", "issuer_of", "names_of", "verify"]
