"""Every document an instance reads, given what no document should be: one kind of error, with a reason, and no other."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelmesh.adapters.store.etcd_settings import StoreSettingError, parse_etcd
from modelmesh.instance.documents import parse_constraints, parse_methods, parse_static_models
from modelmesh.instance.payload_choice import parse_processors
from modelmesh.instance.settings import SettingsError
from modelmesh.instance.sources import load_settings
from modelmesh.values.records import CopyRecord, FailureRecord, MemberRecord, ModelRecord, VModelRecord
from modelmesh.values.stored import RecordError

LEAST = {"MM_SERVICE_NAME": "s", "KV_STORE": "sqlite:x"}
Read = Callable[[bytes, Path], object]
DEEP = 100_000
BAD = {
    "nothing": b"",
    "half": b'{"a":',
    "words": b"not JSON",
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "deep and closed": b"[" * DEEP + b"]" * DEEP,
    "deep TOML": b"a = " + b"[" * DEEP,
    "a long number": b"1" * 10_000,
    "not a number": b"NaN",
    "beyond every number": b'{"a": 1e999}',
    "half a surrogate": b'{"\\ud800": "\\ud800"}',
    "no UTF-8": b"\xff\xfe{}",
    "nul": b"\0",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "null": b"null",
    "a list": b"[null, 1, {}]",
    "a long text": b'"' + b"x" * 1_000_000 + b'"',
    "wrong kinds": b'{"rpcConfigs": [], "endpoints": 1, "modelId": {}, "type": 1, "hot": 3, "labels": "x"}',
}


def text(parse: Callable[[str], object]) -> Read:
    return lambda content, folder: parse(content.decode(errors="replace"))


def in_file(name: str, parse: Callable[[Path], object]) -> Read:
    def read(content: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(content)
        return parse(path)

    return read


def variable(name: str) -> Read:
    return text(lambda content: load_settings({**LEAST, name: content}))


READERS: dict[str, tuple[Read, type[Exception]]] = {
    "constraints": (text(parse_constraints), ValueError),
    "data-plane config": (text(parse_methods), ValueError),
    "static models": (text(parse_static_models), ValueError),
    "payload processors": (text(parse_processors), ValueError),
    "log headers": (variable("MM_LOG_REQUEST_HEADERS"), SettingsError),
    "metrics": (variable("MM_METRICS"), SettingsError),
    "processors setting": (variable("MM_PAYLOAD_PROCESSORS"), SettingsError),
    "etcd file": (in_file("etcd.json", lambda path: parse_etcd(str(path))), StoreSettingError),
    "config file": (in_file("config.toml", lambda path: load_settings(LEAST, config=path)), SettingsError),
    **{
        kind.__name__: (lambda content, folder, kind=kind: kind.decode(content), RecordError)  # type: ignore[misc]
        for kind in (ModelRecord, VModelRecord, CopyRecord, FailureRecord, MemberRecord)
    },
}


@pytest.mark.parametrize("document", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_bad_documents_are_refused_in_words(
    tmp_path: Path, reader: tuple[Read, type[Exception]], document: bytes
) -> None:
    read, kind = reader
    with contextlib.suppress(kind):
        read(document, tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [
        "rpcConfigs",
        "a/b",
        "idExtractionPath",
        "vModelId",
        "allowOtherRpcs",
        "required",
        "modelId",
        "modelInfo",
        "type",
        "state",
        "since",
        "load",
        "size",
        "rev",
        "class",
        "message",
        "count",
        "until",
        "addr",
        "hot",
        "labels",
        "drain",
    ]
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=200)
@given(st.dictionaries(NAMES, VALUES | st.dictionaries(NAMES, VALUES, max_size=3), max_size=4))
def test_any_json_is_read_or_refused(document: dict[str, object]) -> None:
    content = json.dumps(document).encode()
    for name, (read, kind) in READERS.items():
        if "file" not in name and kind is not SettingsError:
            with contextlib.suppress(kind):
                read(content, Path())
