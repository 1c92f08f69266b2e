"""Ids and types of models, as folders and formats."""

import hashlib
import json
import re
from urllib.parse import quote

MAX_NAME = 200
"""Bytes of a folder's name: file systems take 255, and servers add to it."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEPT = "-._"


def is_plain(model_id: str) -> bool:
    """Whether an id is a folder's name as it is: ids of the Kubernetes controller all are."""
    return len(model_id) <= MAX_NAME and _PLAIN.fullmatch(model_id) is not None


def folder_name(model_id: str) -> str:
    """A folder's name for any id: the id itself where it is plain, else one that no plain id has."""
    if is_plain(model_id):
        return model_id
    encoded = quote(model_id, safe=_KEPT, errors="surrogatepass").replace("_", "%5F").replace("~", "%7E")
    encoded = f"%{ord(encoded[0]):02X}{encoded[1:]}" if encoded[:1] in tuple(_KEPT) else encoded
    if "%" in encoded and len(encoded) <= MAX_NAME:
        return encoded
    digest = hashlib.sha256(model_id.encode(errors="surrogatepass")).hexdigest()[:40]
    return f"{encoded[: MAX_NAME - 42]}%%{digest}"


def format_of(model_type: str, model_key: str) -> str:
    """The format that a load names, lower case; empty if none.

    The key's `model_type` first, as an object with a name or as a text; else the type, whose labels (`mt:`, `|pv:…`) and
    version are left away. A type that names a runtime (`rt:…`) names no format.
    """
    named = _named(model_key)
    text = (model_type if named is None else named).partition("|")[0]
    if text.startswith("rt:"):
        return ""
    return text.removeprefix("mt:").partition(":")[0].strip().lower()


def _named(model_key: str) -> str | None:
    try:
        key = json.loads(model_key)
    except ValueError:
        return None
    found = key.get("model_type") if isinstance(key, dict) else None
    if isinstance(found, dict):
        found = found.get("name")
    return found if isinstance(found, str) else None
