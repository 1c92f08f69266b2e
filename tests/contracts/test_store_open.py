"""The forms of KV_STORE."""

import json

import pytest

from modelmesh.adapters.store import StoreSettingError, open_store
from modelmesh.adapters.store.etcd_settings import parse_etcd
from modelmesh.ports import Put, StoreUnavailableError, Transaction


@pytest.mark.parametrize(
    ("text", "endpoints", "root_prefix", "tls"),
    [
        ("localhost", ("localhost:2379",), "", False),
        ("a:1,b:2 , c", ("a:1", "b:2", "c:2379"), "", False),
        ("http://a:1;rootPrefix=/x/y", ("a:1",), "/x/y", False),
        ("https://a,https://b:5/", ("a:2379", "b:5"), "", True),
        ("[::1]:7,[::1]", ("[::1]:7", "[::1]:2379"), "", False),
    ],
)
def test_endpoints_in_line(text, endpoints, root_prefix, tls):
    settings = parse_etcd(text)
    assert (settings.endpoints, settings.root_prefix, settings.tls) == (endpoints, root_prefix, tls)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no etcd endpoint"),
        (";rootPrefix=x", "no etcd endpoint"),
        ("a:port", "not host:port"),
        ("a:0", "not host:port"),
        (":2379", "not host:port"),
        ("a b", "not host:port"),
        ("ftp://a", "http or https"),
        ("a;prefix=x", "unknown option"),
        ("/etc/nowhere/etcd.json", "there is no file"),
        ("etcd.json", "there is no file"),
    ],
)
def test_what_is_neither_file_nor_endpoints_says_why(text, message):
    with pytest.raises(StoreSettingError, match=message):
        parse_etcd(text)


def test_a_json_file_has_all_that_modelmesh_read(tmp_path):
    (tmp_path / "ca.pem").write_text("the authority")
    path = tmp_path / "etcd_connection"
    path.write_text(
        json.dumps(
            {
                "endpoints": "https://a:1,https://b:2",
                "userid": "u",
                "password": "p",
                "root_prefix": "root",
                "certificate_file": "ca.pem",
                "client_key": "the key",
                "client_certificate": "the certificate",
                "override_authority": "etcd.example",
                "compose_deployment": "ignored",
            }
        )
    )
    settings = parse_etcd(str(path))
    assert settings.endpoints == ("a:1", "b:2")
    assert (settings.user, settings.password, settings.root_prefix) == ("u", "p", "root")
    assert (settings.tls, settings.ca) == (True, b"the authority")
    assert (settings.client_certificate, settings.client_key) == (b"the certificate", b"the key")
    assert settings.override_authority == "etcd.example"
    assert "'p'" not in repr(settings)
    assert "the key" not in repr(settings)


def test_a_certificate_turns_tls_on_unless_a_scheme_says_otherwise(tmp_path):
    path = tmp_path / "c.json"
    for endpoints, tls in (("a:1", True), ("http://a:1", False), ("https://a:1", True)):
        path.write_text(json.dumps({"endpoints": endpoints, "certificate": "pem"}))
        assert parse_etcd(str(path)).tls is tls


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read the etcd configuration"),
        ("[]", "no JSON object"),
        ("{}", "no etcd endpoint"),
        ('{"endpoints": ["a"]}', "endpoints in .* must be text"),
        ('{"endpoints": "a", "certificate_file": "gone.pem"}', "names gone.pem, which is neither there nor in"),
        ('{"endpoints": "a", "client_key": "k"}', "only one of client_certificate and client_key"),
    ],
)
def test_a_json_file_that_cannot_be_used_says_why(tmp_path, content, message):
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(StoreSettingError, match=message):
        parse_etcd(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zookeeper:host:2181", "ZooKeeper is no longer supported"),
        ("redis:x", "KV_STORE is etcd:"),
        ("etcd", "KV_STORE is etcd:"),
        ("sqlite:", "KV_STORE is etcd:"),
        ("", "KV_STORE is etcd:"),
    ],
)
async def test_other_kinds_of_stores_are_refused_by_name(text, message):
    with pytest.raises(StoreSettingError, match=message):
        await open_store(text)


@pytest.mark.parametrize("text", ["sqlite::memory:", "sqlite:{folder}/store", "etcd:{etcd};rootPrefix=open/"])
async def test_a_store_is_opened_and_works(text, tmp_path, etcd):
    store = await open_store(text.format(folder=tmp_path, etcd=etcd.endpoint))
    await store.transact(Transaction((), (Put("a", b"1"),)))
    item = await store.get("a")
    assert item is not None
    assert item.key == "a"
    await store.close()


async def test_the_root_prefix_is_prepended_without_a_separator(etcd):
    inner = await open_store(f"etcd:{etcd.endpoint};rootPrefix=pre/fix")
    await inner.transact(Transaction((), (Put("/a", b"1"),)))
    outer = await open_store(f"etcd:{etcd.endpoint}")
    item = await outer.get("pre/fix/a")
    assert item is not None
    assert item.value == b"1"
    await inner.close()
    await outer.close()


async def test_an_etcd_that_is_not_there_is_a_clear_error():
    with pytest.raises(StoreUnavailableError, match=r"Problem connecting to etcd at 127\.0\.0\.1:1: .*UNAVAILABLE"):
        await open_store("etcd:127.0.0.1:1")
