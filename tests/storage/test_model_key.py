"""The old way to say where a model is. Source: spec/runtime-adapters.md 2.5 and 3."""

import json
from pathlib import Path

import pytest

from modelmesh.storage import ConfigFolder, Kind, StorageError, from_model_key
from modelmesh.storage.model_key import rewritten_key
from modelmesh.values.status import Status

S3 = {
    "type": "s3",
    "access_key_id": "AKEY",
    "secret_access_key": "TOPSECRET",
    "endpoint_url": "http://h",
    "region": "r",
}


def read(path: str, key: object, **configs: object):
    texts = {name: one if isinstance(one, str) else json.dumps(one) for name, one in configs.items()}
    return from_model_key(path, key if isinstance(key, str) else json.dumps(key), texts.get)


def test_a_storage_key_names_a_configuration() -> None:
    files = read("a/model", {"storage_key": "mine", "model_type": {"name": "onnx"}}, mine={**S3, "bucket": "bkt"})
    assert (files.model.kind, files.model.place, files.model.path) == (Kind.S3, "bkt", "a/model")
    assert files.model.get("secret_access_key") == "TOPSECRET"
    assert (files.model_name, files.schema, files.model_type) == ("model", None, {"name": "onnx"})


@pytest.mark.parametrize(
    ("key", "config", "bucket"),
    [
        ({}, {"bucket": "own"}, "own"),
        ({}, {"default_bucket": "dflt"}, "dflt"),
        ({}, {"bucket": "own", "default_bucket": "dflt"}, "own"),
        ({"bucket": "keys"}, {"bucket": "own"}, "keys"),
        ({"bucket": "keys"}, {"default_bucket": "dflt"}, "keys"),
        ({"bucket": "keys", "storage_params": {"bucket": "params"}}, {"bucket": "own"}, "params"),
        ({"storage_params": {"bucket": "params"}}, {}, "params"),
    ],
)
def test_which_bucket_counts(key: dict, config: dict, bucket: str) -> None:
    assert read("m", {"storage_key": "k", **key}, k={**S3, **config}).model.place == bucket


def test_a_bucket_of_the_key_counts_only_beside_one_of_the_configuration() -> None:
    with pytest.raises(StorageError, match="has no bucket"):
        read("m", {"storage_key": "k", "bucket": "keys"}, k=S3)


def test_defaults_by_type_and_without() -> None:
    assert read("m", {}, default={**S3, "bucket": "dflt"}).model.place == "dflt"
    assert read("m", {"storage_params": {"type": "s3"}}, default_s3={**S3, "bucket": "typed"}).model.place == "typed"
    # What is in a default that cannot be read is no error: the type is missing then.
    with pytest.raises(StorageError, match="Predictor Storage field missing"):
        read("m", {}, default="{")


def test_params_set_inner_values() -> None:
    files = read("m", {"storage_key": "k", "storage_params": {"url": "https://h/base?x=1"}}, k={"type": "http"})
    assert files.model.place == "https://h"
    assert (files.model.path, files.model.query) == ("base/m", "x=1")
    for params in ({"headers.a.b": "x"}, {"access": "x"}):
        with pytest.raises(StorageError) as refused:
            read(
                "m",
                {"storage_key": "k", "storage_params": params},
                k={"type": "http", "url": "http://h", "headers": {"a": "TOPSECRET"}, "access": 1},
            )
        assert refused.value.code is Status.INVALID_ARGUMENT
        assert "TOPSECRET" not in str(refused.value)


@pytest.mark.parametrize(
    "key",
    [
        "{",
        "[]",
        '"text"',
        '{"storage_key": 1}',
        '{"schema_path": 1}',
        '{"bucket": []}',
        '{"storage_params": []}',
        '{"storage_params": {"a": 1}}',
        "[" * 100_000,
        json.dumps({"a": "x" * 70_000}),
    ],
    ids=range(10),
)
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(StorageError, match="Invalid modelKey in LoadModelRequest") as refused:
        read("m", key, default={**S3, "bucket": "bkt"})
    assert refused.value.code is Status.INVALID_ARGUMENT
    assert len(str(refused.value)) < 200


def test_a_storage_key_that_is_not_there_is_a_precondition() -> None:
    with pytest.raises(StorageError, match="'gone' is not there") as refused:
        read("m", {"storage_key": "gone"})
    assert refused.value.code is Status.FAILED_PRECONDITION


def test_a_key_of_a_secret_of_its_own_is_a_file_of_its_name_and_its_secret_is_named(tmp_path: Path) -> None:
    (tmp_path / "team:k").write_text(json.dumps({**S3, "bucket": "bkt"}))
    files = from_model_key("m", json.dumps({"storage_key": "team:k"}), ConfigFolder(tmp_path))
    assert (files.model.kind, files.model.place) == (Kind.S3, "bkt")
    with pytest.raises(StorageError, match="add the key gone to the secret storage-config-team"):
        read("m", {"storage_key": "team:gone"})


@pytest.mark.parametrize("config", ["{TOPSECRET", '"TOPSECRET"', '["TOPSECRET"]', '{"type": "TOPSECRET'])
def test_a_configuration_that_cannot_be_read_is_not_shown(config: str) -> None:
    with pytest.raises(StorageError) as refused:
        read("m", {"storage_key": "k"}, k=config)
    assert refused.value.code is Status.FAILED_PRECONDITION
    assert "TOPSECRET" not in str(refused.value)


def test_a_type_that_is_not_known_is_named() -> None:
    with pytest.raises(StorageError, match="'floppy' is not known"):
        read("m", {"storage_params": {"type": "floppy"}})


@pytest.mark.parametrize(
    ("path", "name"), [("a/b", "b"), ("a/b/", "b"), ("", "_model"), ("///", "_model"), ("m.tar.gz", "m.tar.gz")]
)
def test_what_a_model_is_called_here(path: str, name: str) -> None:
    files = read(path, {"storage_key": "k"}, k={**S3, "bucket": "bkt"})
    assert files.model_name == name
    assert not files.model.unpack  # only a URI asks for it


@pytest.mark.parametrize(
    ("path", "schema", "name"), [("a/b", "x/schema.json", "schema.json"), ("a/b", "c/b", "_schema.json")]
)
def test_a_schema_beside(path: str, schema: str, name: str) -> None:
    files = read(path, {"storage_key": "k", "schema_path": schema}, k={**S3, "bucket": "bkt"})
    assert files.schema is not None
    assert (files.schema.path, files.schema_name) == (schema, name)
    assert files.schema.get("region") == "r"


def test_a_claim_is_never_left() -> None:
    files = read("../../etc/passwd", {"storage_params": {"type": "pvc", "name": "claim"}})
    assert (files.model.kind, files.model.place, files.model.path) == (Kind.PVC, "claim", "etc/passwd")


def test_http_paths_do_not_leave_the_base() -> None:
    with pytest.raises(StorageError):
        read("../x", {"storage_params": {"type": "http", "url": "https://h/base"}})


def test_a_leading_slash_of_a_key_is_no_part_of_it() -> None:
    """Until now such a path matched nothing, and the load succeeded with no file."""
    assert read("/a/b", {"storage_key": "k"}, k={**S3, "bucket": "bkt"}).model.path == "a/b"


def test_a_path_may_be_a_uri() -> None:
    files = read("hf://org/repo@v1", {"model_type": "x"}, default={**S3, "bucket": "bkt"})
    assert files.model.kind is Kind.HF
    assert files.model_name == "repo"
    with_key = read("s3://other/m", {"storage_key": "k"}, k={**S3, "bucket": "bkt"})
    assert (with_key.model.place, with_key.model.get("access_key_id")) == ("other", "AKEY")


def test_the_key_that_goes_on() -> None:
    files = read("m", {"storage_key": "k", "model_type": {"name": "tensorflow"}}, k={**S3, "bucket": "bkt"})
    assert (
        rewritten_key(files, disk_size_bytes=60, schema_path="/models/m/my_schema")
        == '{"model_type":{"name":"tensorflow"},"disk_size_bytes":60,"schema_path":"/models/m/my_schema"}'
    )
    bare = read("m", {"storage_key": "k"}, k={**S3, "bucket": "bkt"})
    assert rewritten_key(bare, disk_size_bytes=0, schema_path=None) == '{"disk_size_bytes":0}'


def test_a_folder_of_configurations_is_read_anew(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "mine").write_text(json.dumps({**S3, "bucket": "one"}))
    (tmp_path / "mine").symlink_to("..data/mine")
    (tmp_path.parent / "outside").write_text(json.dumps({**S3, "bucket": "out"}))
    configs = ConfigFolder(tmp_path)
    key = json.dumps({"storage_key": "mine"})
    assert from_model_key("m", key, configs).model.place == "one"
    (tmp_path / "..data" / "mine").write_text(json.dumps({**S3, "bucket": "two"}))
    assert from_model_key("m", key, configs).model.place == "two"
    for name in ("../outside", "/etc/passwd", "nobody", "", "..data", "x\0y"):
        with pytest.raises(StorageError):
            from_model_key("m", json.dumps({"storage_key": name}), configs)
