"""Where model files are: one parser for all kinds of URIs."""

import enum
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote, urlsplit

from modelmesh.storage.errors import StorageError
from modelmesh.storage.names import base_name, shown
from modelmesh.values.status import Status

MAX_URI_BYTES = 4096
"""As the system's longest path."""


class Kind(enum.Enum):
    """What keeps the files."""

    S3 = "s3"
    GS = "gs"
    AZ = "az"
    HTTP = "http"
    HF = "hf"
    OCI = "oci"
    PVC = "pvc"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Location:
    """Where the files of a model are. Compare and show it freely: `settings` and `query` are in no text of it.

    Attributes:
        kind: What keeps them.
        place: Bucket (s3, gs), `account/container` (az), `scheme://host[:port]` (http), `org/repository` (hf),
            `host[:port]/repository` (oci), claim (pvc), empty (file).
        path: Below the place, without a leading slash (file: absolute), as it is written in the store: not escaped.
            A trailing slash means a folder.
        revision: hf: branch, tag or commit; oci: tag or `sha256:…`; else empty.
        query: http: of the URL; may hold a signature.
        unpack: The one file is an archive whose contents are the model.
        settings: Credentials and endpoint of an old storage configuration, by its own names.
    """

    kind: Kind
    place: str
    path: str = ""
    revision: str = ""
    query: str = field(default="", repr=False)
    unpack: bool = False
    settings: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """What the file or folder is called: the last part of the path, else of the place."""
        return base_name(self.path) or base_name(self.place)

    @property
    def text(self) -> str:
        """The URI, without anything secret."""
        if self.kind is Kind.HTTP:
            return f"{self.place}/{quote(self.path)}"
        if self.kind is Kind.FILE:
            return f"file://{self.path}"
        mark = ("@" if self.kind is Kind.HF or self.revision.startswith("sha256:") else ":") if self.revision else ""
        path = f"/{self.path}" if self.path else ""
        return f"{self.kind.value}://{self.place}{mark}{quote(self.revision, safe=':')}{path}"

    def __str__(self) -> str:
        return self.text

    def get(self, name: str) -> str:
        """A setting, or the empty string."""
        return dict(self.settings).get(name, "")

    def with_settings(self, settings: Mapping[str, str]) -> "Location":
        """The same place, reached with other settings."""
        return replace(self, settings=tuple(sorted(settings.items())))


ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
"""A file that ends so, named by a URI, is unpacked."""

_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,221}")
_CONTAINER = re.compile(r"\$?[a-z0-9-]{2,63}")
_ACCOUNT = re.compile(r"[a-z0-9]{1,63}")
_CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]{1,255})(:[0-9]{1,5})?")
_REPO_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}")
_OCI_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_OCI_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BLOB_HOST = re.compile(r"(?P<account>[a-z0-9]+)\.blob\.core\.[a-z.]+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")

SCHEMES = "s3, gs, az, http, https, hf, oci, pvc, file"


def parse_location(uri: str) -> Location:
    """The location that a URI names.

    | URI | |
    |---|---|
    | `s3://bucket/path`, `gs://bucket/path` (`gcs://`) | the key is taken as written, nothing is unescaped |
    | `az://account/container/path` (`azure://`), or the blob's https URL | |
    | `http://host/path`, `https://…` | one file; a query is kept and never shown |
    | `hf://org/repository[@revision][/path]` | |
    | `oci://host/repository[:tag or @digest][/path]` | |
    | `pvc://claim/path` | below the folder of claims |
    | `file:///path`, or an absolute path | |

    A file that ends in `.tar`, `.tar.gz`, `.tgz` or `.zip` is unpacked.

    Raises:
        StorageError: INVALID_ARGUMENT, with what is wrong.
    """
    try:
        size = len(uri.encode())
    except UnicodeEncodeError:
        raise StorageError(Status.INVALID_ARGUMENT, f"the location {shown(uri)} is not UTF-8") from None
    if size > MAX_URI_BYTES:
        raise _bad(uri, f"has {size} bytes, at most {MAX_URI_BYTES}")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in uri):
        raise _bad(uri, "has control characters")
    if uri.startswith("/"):
        return _file(uri, uri)
    scheme, found, rest = uri.partition("://")
    if not found or not _SCHEME.fullmatch(scheme):
        raise _bad(uri, f"is no URI; write SCHEME://…, with a scheme of {SCHEMES}")
    reader = _READERS.get(scheme.lower())
    if reader is None:
        raise _bad(uri, f"has a scheme that is not known; known are {SCHEMES}")
    return reader(uri, rest)


def clean_path(path: str, uri: str) -> str:
    """A path as stores write it: no slash in front, no empty parts; a trailing slash stays.

    Raises:
        StorageError: INVALID_ARGUMENT: a part is `.` or `..`.
    """
    parts = [part for part in path.split("/") if part]
    if any(part in {".", ".."} for part in parts):
        raise _bad(uri, "has a part . or .. in its path; write the path without them")
    return "/".join(parts) + ("/" if parts and path.endswith("/") else "")


def _bucket(kind: Kind) -> "_Reader":
    def read(uri: str, rest: str) -> Location:
        bucket, _, path = rest.partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise _bad(uri, f"names no bucket; write {kind.value}://BUCKET/PATH")
        return _archived(Location(kind, bucket, clean_path(path, uri)))

    return read


def _azure(uri: str, rest: str) -> Location:
    account, _, path = rest.partition("/")
    if match := _BLOB_HOST.fullmatch(account):
        account = match["account"]
    container, _, path = path.partition("/")
    if not _ACCOUNT.fullmatch(account) or not _CONTAINER.fullmatch(container):
        raise _bad(uri, "names no account and container; write az://ACCOUNT/CONTAINER/PATH")
    return _archived(Location(Kind.AZ, f"{account}/{container}", clean_path(path, uri)))


def _http(uri: str, _rest: str) -> Location:
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
        port = parts.port
    except ValueError as error:
        raise _bad(uri, f"is no URL ({error})") from None
    if "@" in parts.netloc:
        raise _bad(uri, "has a user in it; put credentials into a storage configuration")
    if not _HOST.fullmatch(parts.netloc):
        raise _bad(uri, "names no host; write https://HOST/PATH")
    if _BLOB_HOST.fullmatch(host) and parts.scheme.lower() == "https" and port in {None, 443}:
        found = _azure(uri, f"{host}{unquote(parts.path)}")
        return found.with_settings({"sas_token": parts.query}) if parts.query else found
    path = clean_path(unquote(parts.path), uri)
    return _archived(Location(Kind.HTTP, f"{parts.scheme.lower()}://{parts.netloc}", path, query=parts.query))


def _hugging_face(uri: str, rest: str) -> Location:
    match = re.fullmatch(r"(?P<org>[^/@:]+)/(?P<repo>[^/@:]+)(?:[@:](?P<rev>[^/]+))?(?:/(?P<path>.*))?", rest)
    if match is None or not _REPO_PART.fullmatch(match["org"]) or not _REPO_PART.fullmatch(match["repo"]):
        raise _bad(uri, "names no repository; write hf://ORG/REPOSITORY[@REVISION][/PATH]")
    revision = unquote(match["rev"] or "")  # refs/pr/1 is written refs%2Fpr%2F1
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise _bad(uri, "has a revision that is none")
    return Location(Kind.HF, f"{match['org']}/{match['repo']}", clean_path(match["path"] or "", uri), revision)


def _oci(uri: str, rest: str) -> Location:
    host, _, rest = rest.partition("/")
    digest = re.fullmatch(r"(?P<repo>[^@:]+)@(?P<rev>sha256:[^/]*)(?:/(?P<path>.*))?", rest)
    tagged = re.fullmatch(r"(?P<repo>[^@:]+)(?::(?P<rev>[^/@]+))?(?:/(?P<path>.*))?", rest)
    match = digest or tagged
    if match is None or not _HOST.fullmatch(host) or not _OCI_NAME.fullmatch(match["repo"].rstrip("/")):
        raise _bad(uri, "names no image; write oci://HOST/REPOSITORY[:TAG or @sha256:…][/PATH]")
    revision = match["rev"] or "latest"
    if not (_DIGEST if digest else _OCI_TAG).fullmatch(revision):
        raise _bad(uri, "has a tag or digest that is none")
    path = clean_path(match["path"] or "", uri)
    return Location(Kind.OCI, f"{host}/{match['repo'].rstrip('/')}", path, revision)


def _claim(uri: str, rest: str) -> Location:
    claim, _, path = rest.partition("/")
    if not _CLAIM.fullmatch(claim):
        raise _bad(uri, "names no claim; write pvc://CLAIM/PATH")
    return _archived(Location(Kind.PVC, claim, clean_path(path, uri)))


def _file_uri(uri: str, rest: str) -> Location:
    host, slash, path = rest.partition("/")
    if host not in {"", "localhost"} or not slash:
        raise _bad(uri, "is no local file; write file:///PATH")
    return _file(uri, "/" + unquote(path))


def _file(uri: str, path: str) -> Location:
    if "\0" in path or ".." in path.split("/"):
        raise _bad(uri, "has a part .. in its path; write the path without it")
    folder = "/" if path.endswith("/") and path.strip("/") else ""
    return _archived(Location(Kind.FILE, "", posixpath.normpath(path).replace("//", "/") + folder))


def _archived(location: Location) -> Location:
    return replace(location, unpack=location.path.lower().endswith(ARCHIVES))


def _bad(uri: str, why: str) -> StorageError:
    safe = shown(re.sub(r"(?<=://)[^/@]*@", "", uri.partition("?")[0]))
    return StorageError(Status.INVALID_ARGUMENT, f"the location {safe!r} {why}")


_Reader = Callable[[str, str], Location]
_READERS: dict[str, _Reader] = {
    "s3": _bucket(Kind.S3),
    "gs": _bucket(Kind.GS),
    "gcs": _bucket(Kind.GS),
    "az": _azure,
    "azure": _azure,
    "http": _http,
    "https": _http,
    "hf": _hugging_face,
    "oci": _oci,
    "pvc": _claim,
    "file": _file_uri,
}
