"""Repositories of the Hugging Face hub, through its HTTP interface: listing, resolve, redirects to where large files are.

`huggingface_hub` has its own cache, whole repositories of threads, and 19 MB; three requests are enough here.
"""

import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from modelmesh.storage.credentials import secrets_of
from modelmesh.storage.errors import StorageError
from modelmesh.storage.listing import Limits, Plan, SourceFile, make_plan, too_many
from modelmesh.storage.locations import Location
from modelmesh.storage.names import base_name, shown
from modelmesh.storage.sources.web import Web
from modelmesh.values.status import Status

ENDPOINT = "https://huggingface.co"

_CODES = {
    "RepoNotFound": Status.NOT_FOUND,
    "RevisionNotFound": Status.NOT_FOUND,
    "EntryNotFound": Status.NOT_FOUND,
    "GatedRepo": Status.PERMISSION_DENIED,
    "DisabledRepo": Status.PERMISSION_DENIED,
}
"""Of the header X-Error-Code: a private repository without a token is answered with 401, as if it were not there."""


class HubSource:
    """A repository of models.

    The endpoint is `endpoint_url` of the settings, or HF_ENDPOINT; the token is `token`, HF_TOKEN, or what
    `huggingface-cli login` left. A branch is resolved to its commit first, so that all files are of one state.
    """

    ranged = True

    def __init__(self, location: Location, environ: Mapping[str, str] = os.environ) -> None:
        self._location = location
        self._endpoint = (location.get("endpoint_url") or environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        # The user's token is for the user's hub, not for one that a model's key names.
        token = location.get("token") or ("" if location.get("endpoint_url") else _token(environ))
        self._web = Web(
            location.text,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            secrets=(*secrets_of(location, environ), *([token] if token else [])),
            codes=_CODES,
        )
        self._repository = quote(location.place)

    async def plan(self, limits: Limits, unknown: str) -> Plan:
        """Files below the path, else the one that it names."""
        revision = quote(self._location.revision or "main", safe="")
        found, _ = await self._web.json(f"{self._endpoint}/api/models/{self._repository}/revision/{revision}")
        commit = found.get("sha") if isinstance(found, dict) else None
        if not isinstance(commit, str) or not commit.isalnum():
            raise self._nonsense()
        path = self._location.path.rstrip("/")
        is_file = False
        try:
            entries = await self._tree(commit, path, limits, recursive=True)
        except StorageError as error:
            if error.code is not Status.NOT_FOUND or not path:
                raise
            parent = path.rpartition("/")[0]
            entries = [one for one in await self._tree(commit, parent, limits, recursive=False) if one["path"] == path]
            is_file = True
        start = len(path) + 1 if path else 0
        files = [self._file(entry, commit, base_name(path) if is_file else entry["path"][start:]) for entry in entries]
        return make_plan(
            self._location, files, is_file=is_file, endpoint=self._endpoint, unknown=unknown, limits=limits
        )

    def read(self, file: SourceFile, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        """As `Source.read`."""
        return self._web.read(file, start, end, f"{self._location}: {shown(file.name)}")

    async def close(self) -> None:
        """Let connections go."""
        await self._web.close()

    async def _tree(self, commit: str, path: str, limits: Limits, *, recursive: bool) -> list[dict[str, Any]]:
        """Entries that are files, from all pages."""
        below = f"/{quote(path)}" if path else ""
        url = f"{self._endpoint}/api/models/{self._repository}/tree/{commit}{below}?recursive={str(recursive).lower()}"
        files: list[dict[str, Any]] = []
        for _ in range(1 + limits.max_files // 50):
            page, headers = await self._web.json(url)
            if not isinstance(page, list) or not all(
                isinstance(one, dict) and isinstance(one.get("path"), str) for one in page
            ):
                raise self._nonsense()
            files += [one for one in page if one.get("type") == "file"]
            if len(files) > limits.max_files:
                raise too_many(self._location, limits)
            following = _next(headers.get("Link", ""))
            if not following:
                return files
            url = urljoin(url, following)
            if not url.startswith(f"{self._endpoint}/"):
                raise self._nonsense()
        raise too_many(self._location, limits)

    def _file(self, entry: dict[str, Any], commit: str, name: str) -> SourceFile:
        large = entry.get("lfs")
        described = large if isinstance(large, dict) else entry
        oid, size = described.get("oid"), described.get("size")
        if not isinstance(oid, str) or not isinstance(size, int):
            raise self._nonsense()
        digest = f"{'git-sha1' if described is entry else 'sha256'}:{oid}"
        key = f"{self._endpoint}/{self._repository}/resolve/{commit}/{quote(entry['path'])}"
        return SourceFile(name, key, size, oid, digest)

    def _nonsense(self) -> StorageError:
        return StorageError(
            Status.UNAVAILABLE, f"{self._location}: the answer of {self._endpoint} is none that a hub gives; is it one?"
        )


def _token(environ: Mapping[str, str]) -> str:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if environ.get(name):
            return environ[name].strip()
    home = Path(environ.get("HF_HOME") or f"{environ.get('HOME', '/nonexistent')}/.cache/huggingface")
    path = Path(environ.get("HF_TOKEN_PATH") or home / "token")
    try:
        return path.read_text()[:4096].strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _next(link: str) -> str:
    """The next page of a Link header."""
    for part in link.split(","):
        url, _, relation = part.partition(";")
        if 'rel="next"' in relation:
            return url.strip().removeprefix("<").removesuffix(">")
    return ""
