"""URIs of model files: one corpus of what is meant and what is refused."""

import pytest

from modelmesh.storage import Kind, Location, StorageError, parse_location
from modelmesh.values.status import Status

DIGEST = "sha256:" + "ab" * 32

MEANT = [
    ("s3://bucket/a/b", Location(Kind.S3, "bucket", "a/b")),
    ("s3://bucket/a/b/", Location(Kind.S3, "bucket", "a/b/")),
    ("s3://bucket", Location(Kind.S3, "bucket")),
    ("s3://bucket/", Location(Kind.S3, "bucket")),
    ("s3://bucket//a///b", Location(Kind.S3, "bucket", "a/b")),
    ("S3://bucket/a", Location(Kind.S3, "bucket", "a")),
    ("s3://bucket/a%20b", Location(Kind.S3, "bucket", "a%20b")),
    ("s3://bucket/é ü", Location(Kind.S3, "bucket", "é ü")),
    ("s3://bucket/a?b#c", Location(Kind.S3, "bucket", "a?b#c")),
    ("s3://bucket/m.tar.gz", Location(Kind.S3, "bucket", "m.tar.gz", unpack=True)),
    ("s3://bucket/m.TGZ", Location(Kind.S3, "bucket", "m.TGZ", unpack=True)),
    ("s3://bucket/m.mar", Location(Kind.S3, "bucket", "m.mar")),
    ("gs://bucket/a", Location(Kind.GS, "bucket", "a")),
    ("gcs://bucket/a", Location(Kind.GS, "bucket", "a")),
    ("az://account/container/a", Location(Kind.AZ, "account/container", "a")),
    ("azure://account/container/a", Location(Kind.AZ, "account/container", "a")),
    ("azure://account.blob.core.windows.net/container/a", Location(Kind.AZ, "account/container", "a")),
    ("https://account.blob.core.windows.net/container/a%20b", Location(Kind.AZ, "account/container", "a b")),
    ("http://host/a", Location(Kind.HTTP, "http://host", "a")),
    ("https://host:8443/a%20b?x=1", Location(Kind.HTTP, "https://host:8443", "a b", query="x=1")),
    ("https://[::1]:80/a", Location(Kind.HTTP, "https://[::1]:80", "a")),
    ("https://host/m.zip?sig=1", Location(Kind.HTTP, "https://host", "m.zip", query="sig=1", unpack=True)),
    ("hf://org/repo", Location(Kind.HF, "org/repo")),
    ("hf://org/repo@v1/sub/file", Location(Kind.HF, "org/repo", "sub/file", "v1")),
    ("hf://org/repo:v1", Location(Kind.HF, "org/repo", revision="v1")),
    ("hf://org/repo@refs%2Fpr%2F1", Location(Kind.HF, "org/repo", revision="refs/pr/1")),
    ("oci://host/a/b", Location(Kind.OCI, "host/a/b", revision="latest")),
    ("oci://host:5000/a:1.0", Location(Kind.OCI, "host:5000/a", revision="1.0")),
    ("oci://host:5000/a:1.0/x/y", Location(Kind.OCI, "host:5000/a", "x/y", "1.0")),
    (f"oci://host/a/b@{DIGEST}", Location(Kind.OCI, "host/a/b", revision=DIGEST)),
    ("pvc://claim/a/b", Location(Kind.PVC, "claim", "a/b")),
    ("pvc://claim", Location(Kind.PVC, "claim")),
    ("file:///a/b%20c", Location(Kind.FILE, "", "/a/b c")),
    ("file://localhost/a", Location(Kind.FILE, "", "/a")),
    ("/a//b/./c", Location(Kind.FILE, "", "/a/b/c")),
]


@pytest.mark.parametrize(("uri", "location"), MEANT, ids=[uri for uri, _ in MEANT])
def test_a_uri_means_a_place(uri: str, location: Location) -> None:
    assert parse_location(uri) == location


@pytest.mark.parametrize("location", [location for _, location in MEANT if not location.query], ids=str)
def test_the_text_of_a_location_is_a_uri_that_means_it(location: Location) -> None:
    assert parse_location(location.text) == location


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "models/a",
        "ftp://host/a",
        "s3:/bucket/a",
        "s3://",
        "s3:///a",
        "s3://b/a",
        "s3://bucket/../a",
        "s3://bucket/a/./b",
        "s3://bucket/a\nb",
        "s3://bucket/a\0b",
        "s3://user:pass@bucket/a",
        "s3://bucket/" + "a" * 5000,
        "s3://bucket/\udc80",
        "az://account",
        "az://Account/container/x",
        "http:///a",
        "http://host:port/a",
        "http://host/a/../b",
        "http://host/%2e%2e/b",
        "https://user:secret@host/a",
        "hf://org",
        "hf://org/repo/../x",
        "hf://../repo",
        "hf://org/repo@a..b",
        "oci://host",
        "oci://host/UPPER:1",
        "oci://host/a@sha256:12",
        "oci://host/a:ta g",
        "pvc://Claim/a",
        "pvc://../a",
        "pvc://claim/../other",
        "file://host/a",
        "file:///a/../b",
        "/a/../b",
    ],
)
def test_what_is_no_location_is_refused_in_words(uri: str) -> None:
    with pytest.raises(StorageError) as refused:
        parse_location(uri)
    assert refused.value.code is Status.INVALID_ARGUMENT
    text = str(refused.value)
    assert "secret" not in text
    assert "pass@" not in text
    assert "\n" not in text
    assert len(text) < 400


def test_no_text_of_a_location_shows_its_query_or_settings() -> None:
    location = parse_location("https://host/a?sig=TOPSECRET").with_settings({"headers": "TOPSECRET"})
    assert "TOPSECRET" not in f"{location} {location!r} {location.text}"
    assert location.name == "a"


def test_a_signed_blob_url_keeps_its_signature_out_of_sight() -> None:
    location = parse_location("https://account.blob.core.windows.net/models/a?sv=1&sig=TOPSECRET")
    assert location.get("sas_token") == "sv=1&sig=TOPSECRET"
    assert "TOPSECRET" not in repr(location)
