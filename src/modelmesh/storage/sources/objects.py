"""S3, Google Cloud Storage and Azure Blob Storage, through `obstore`."""

import importlib
import json
import os
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from modelmesh.storage.credentials import is_true, secrets_of
from modelmesh.storage.errors import StorageError, next_step, of_http_status, scrub
from modelmesh.storage.listing import Limits, Plan, SourceFile, make_plan
from modelmesh.storage.locations import Kind, Location
from modelmesh.storage.names import base_name, shown
from modelmesh.values.status import Status

PIECE_BYTES = 1024 * 1024
SILENCE_S = 30
"""How long a store may send nothing."""

_STATUS = re.compile(r"\b(?:status(?: code)?: |status: )(\d{3})\b")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")


class ObjectSource:
    """A bucket or container.

    Args:
        location: Of kind S3, GS or AZ.
        environ: Source of credentials that the location does not have; `obstore` reads the process's own
            environment.

    Raises:
        StorageError: FAILED_PRECONDITION: `obstore` is not installed. INVALID_ARGUMENT: settings make no sense.
    """

    ranged = True

    def __init__(self, location: Location, environ: Mapping[str, str] = os.environ) -> None:
        try:
            import obstore  # noqa: PLC0415 - an extra
            from obstore import exceptions  # noqa: PLC0415
        except ImportError as error:
            raise StorageError(
                Status.FAILED_PRECONDITION, f"{location} needs a package: pip install pymodelmesh[storage]"
            ) from error
        self._obstore: Any = obstore
        self._errors: Any = exceptions
        self._location = location
        self._secrets = secrets_of(location, environ)
        try:
            self._store, self._endpoint = _MAKERS[location.kind](location, environ)
        except (exceptions.BaseError, ValueError, TypeError) as error:
            raise StorageError(
                Status.INVALID_ARGUMENT, f"{location}: the settings cannot be used: {self._words(error)}; correct them"
            ) from None

    async def plan(self, limits: Limits, unknown: str) -> Plan:
        """The objects below the path, else the one object that it names."""
        found: list[dict[str, Any]] = []
        prefix = self._location.path.rstrip("/")
        try:
            async for chunk in self._obstore.list(self._store, prefix or None, chunk_size=1000):
                found += chunk
                if len(found) > 2 * limits.max_files:
                    break  # markers of folders are no files, but there are not that many
        except Exception as error:  # noqa: BLE001 - the library's errors have no common base
            raise self._translated(error, "listed") from None
        files = list(_below(prefix, found))
        is_file = not files and bool(prefix) and not self._location.path.endswith("/")
        if is_file:
            with suppress(FileNotFoundError):
                files = [await self._head(prefix)]
        return make_plan(
            self._location, files, is_file=is_file, endpoint=self._endpoint, unknown=unknown, limits=limits
        )

    async def read(self, file: SourceFile, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        """As `Source.read`."""
        if end is not None and start >= end:
            return
        options = {"range": (start, end)} if end is not None else {"range": {"offset": start}}
        try:
            answer = await self._obstore.get_async(self._store, file.key, options=options)
            self._check_tag(file, _tag(answer.meta))
            if end is not None and end - start <= PIECE_BYTES:
                yield await answer.bytes_async()
                return
            async for piece in answer.stream(min_chunk_size=PIECE_BYTES):
                yield piece
        except Exception as error:  # noqa: BLE001 - the library's errors have no common base
            raise self._translated(error, f"read: {shown(file.name)}") from None

    def _check_tag(self, file: SourceFile, tag: str) -> None:
        if file.tag and tag and tag != file.tag:
            text = f"{self._location}: {shown(file.name)} changed while it was pulled{next_step(Status.ABORTED)}"
            raise StorageError(Status.ABORTED, text)

    async def close(self) -> None:
        """Connections end with the store."""

    async def _head(self, key: str) -> SourceFile:
        try:
            meta = await self._obstore.head_async(self._store, key)
        except FileNotFoundError:
            raise
        except Exception as error:  # noqa: BLE001 - the library's errors have no common base
            raise self._translated(error, "read") from None
        return SourceFile(base_name(key), meta["path"], meta["size"], _tag(meta), unpack=self._location.unpack)

    def _translated(self, error: Exception, what: str) -> StorageError:
        """An error of the library in our words."""
        if isinstance(error, StorageError):
            return error
        text = str(error)
        status = _STATUS.search(text)
        code = _CODE.search(text)
        errors = self._errors
        if isinstance(error, FileNotFoundError):
            # Listed just before, or a bucket that is not there.
            kind, answer = Status.NOT_FOUND, "it is not there (any more)"
        elif isinstance(error, errors.UnauthenticatedError):
            kind, answer = Status.UNAUTHENTICATED, "the store does not accept the credentials"
        elif isinstance(error, PermissionError | errors.PermissionDeniedError):
            kind, answer = Status.PERMISSION_DENIED, "the store refuses access with these credentials"
        elif isinstance(error, errors.PreconditionError):
            kind, answer = Status.ABORTED, "it changed while it was pulled"
        elif isinstance(error, errors.InvalidPathError):
            kind, answer = Status.INVALID_ARGUMENT, f"a name cannot be used ({self._words(error)}): rename the object"
        elif "redirect without LOCATION" in text:
            kind, answer = Status.INVALID_ARGUMENT, "the bucket is in another region: set `region`, or AWS_REGION"
        elif status is not None:
            kind = of_http_status(int(status[1]))
            answer = f"the store answers {status[1]}"
        else:
            kind, answer = Status.UNAVAILABLE, self._words(error)
        if code is not None:
            kind = _S3_CODES.get(code[1], kind)
            answer += f" ({code[1]})"
        text = f"{self._location} cannot be {what}: {scrub(answer, self._secrets)}"
        return StorageError(kind, text + next_step(kind))

    def _words(self, error: Exception) -> str:
        """The first line: behind it stands what the library knows of itself."""
        return scrub(str(error).partition("\n")[0], self._secrets)


_S3_CODES = {
    "NoSuchBucket": Status.NOT_FOUND,
    "NoSuchKey": Status.NOT_FOUND,
    "AccessDenied": Status.PERMISSION_DENIED,
    "ExpiredToken": Status.UNAUTHENTICATED,
    "InvalidToken": Status.UNAUTHENTICATED,
    "InvalidAccessKeyId": Status.UNAUTHENTICATED,
    "SignatureDoesNotMatch": Status.UNAUTHENTICATED,
    "RequestTimeTooSkewed": Status.UNAUTHENTICATED,
    "AuthorizationHeaderMalformed": Status.INVALID_ARGUMENT,
    "PermanentRedirect": Status.INVALID_ARGUMENT,
    "SlowDown": Status.UNAVAILABLE,
}


def _tag(meta: Mapping[str, Any]) -> str:
    """An entity tag as it compares: listings and answers quote it differently."""
    return str(meta.get("e_tag") or "").removeprefix("W/").strip('"')


def _below(prefix: str, found: list[dict[str, Any]]) -> "list[SourceFile]":
    """Objects below a prefix by their names there; markers of folders, which are empty and have others below, are none."""
    keys = {meta["path"] for meta in found}
    folders = set()
    for key in keys:
        parent = key.rpartition("/")[0]
        while parent and parent not in folders:
            folders.add(parent)
            parent = parent.rpartition("/")[0]
    start = len(prefix) + 1 if prefix else 0
    return [
        SourceFile(meta["path"][start:], meta["path"], meta["size"], _tag(meta))
        for meta in found
        if meta["path"] != prefix and not (meta["size"] == 0 and meta["path"] in folders)
    ]


def _client(endpoint: str, certificate: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "timeout": timedelta(hours=24),  # of a whole read, which may be large; silence has its own bound
        "read_timeout": timedelta(seconds=SILENCE_S),
        "connect_timeout": timedelta(seconds=10),
        "allow_http": endpoint.startswith("http://"),
    }
    if certificate:
        options["root_certificate"] = certificate
    return options


_RETRY = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=3), "base": 2},
}


def _s3(location: Location, environ: Mapping[str, str]) -> tuple[Any, str]:
    """A bucket. Without keys in the settings, the environment's chain counts: variables, web identity, container, host."""
    store_of: Any = importlib.import_module("obstore.store").S3Store

    endpoint = location.get("endpoint_url")
    if endpoint and "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    known = endpoint or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL", "")
    config: dict[str, Any] = {}
    if endpoint:
        config["endpoint"] = endpoint
    for name in ("access_key_id", "secret_access_key", "session_token", "region"):
        if location.get(name):
            config[name] = location.get(name)
    if is_true(location.get("virtual_hosted")):
        config["virtual_hosted_style_request"] = True
    if is_true(location.get("anonymous")):
        config["skip_signature"] = True
    more: dict[str, Any] = {}
    lent = _boto3_credentials(environ) if not config.get("access_key_id") and "skip_signature" not in config else None
    if lent is not None:
        more["credential_provider"] = lent
    store = store_of(
        location.place,
        config=config,
        client_options=_client(known, location.get("certificate")),
        retry_config=_RETRY,
        **more,
    )
    return store, known.rstrip("/")


def _boto3_credentials(environ: Mapping[str, str]) -> Any:
    """Profiles of `~/.aws`, which only boto3 reads: asked if it is installed and nothing else gives credentials."""
    if any(
        environ.get(name)
        for name in (
            "AWS_ACCESS_KEY_ID",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_SKIP_SIGNATURE",
        )
    ):
        return None
    if "AWS_PROFILE" not in environ and not (Path(environ.get("HOME", "/")) / ".aws" / "credentials").exists():
        return None
    try:
        import boto3  # noqa: PLC0415 - optional
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415
    except ImportError:
        return None
    return Boto3CredentialProvider(boto3.session.Session())


def _google(location: Location, environ: Mapping[str, str]) -> tuple[Any, str]:
    """A bucket. A configuration without a key means anonymous, as it always did; a URI means the environment's chain."""
    store_of: Any = importlib.import_module("obstore.store").GCSStore

    key, email = location.get("private_key"), location.get("client_email")
    if bool(key) != bool(email):
        raise ValueError("private_key and client_email belong together; give both or neither")
    endpoint = location.get("endpoint_url") or environ.get("STORAGE_EMULATOR_HOST", "")
    if endpoint and "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    config: dict[str, Any] = {}
    if endpoint:
        config["base_url"] = endpoint
    if key:
        service: dict[str, str] = {"type": "service_account", "private_key": key, "client_email": email}
        service |= {"private_key_id": "", "token_uri": location.get("token_uri")}
        config["service_account_key"] = json.dumps(service)
    elif location.settings or endpoint:
        config["skip_signature"] = True
    store = store_of(
        location.place,
        config=config,
        client_options=_client(endpoint, location.get("certificate")),
        retry_config=_RETRY,
    )
    return store, endpoint.rstrip("/")


def _azure(location: Location, environ: Mapping[str, str]) -> tuple[Any, str]:
    """A container: connection string, then service principal, then key or SAS, then anonymous."""
    store_of: Any = importlib.import_module("obstore.store").AzureStore

    account, _, container = location.place.partition("/")
    text = location.get("connection_string")
    if not text and not location.settings:
        text = environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    answer = dict(part.partition("=")[::2] for part in text.split(";") if part)
    endpoint = answer.get("BlobEndpoint") or location.get("endpoint_url")
    config: dict[str, Any] = {"account_name": answer.get("AccountName") or account}
    if endpoint:
        config["endpoint"] = endpoint
    principal = ("client_id", "client_secret", "tenant_id")
    if key := answer.get("AccountKey"):
        config["account_key"] = key
    elif sas := answer.get("SharedAccessSignature"):
        config["sas_key"] = sas
    elif all(location.get(name) for name in principal):
        config |= {name: location.get(name) for name in principal}
    elif key := location.get("account_key"):
        config["account_key"] = key
    elif sas := location.get("sas_token"):
        config["sas_key"] = sas
    elif location.settings:
        config["skip_signature"] = True
    store = store_of(
        container, config=config, client_options=_client(endpoint, location.get("certificate")), retry_config=_RETRY
    )
    return store, endpoint.rstrip("/")


_MAKERS = {Kind.S3: _s3, Kind.GS: _google, Kind.AZ: _azure}
