"""Servers that keep files, each in the test's own event loop, and can be told to misbehave."""

import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """A server on loopback; yields its URL."""
    server = web.Server(handler)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    host, port = site._server.sockets[0].getsockname()[:2]  # type: ignore[attr-defined]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def archive(files: dict[str, bytes]) -> bytes:
    """A `.tar.gz` of them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


@dataclass
class Files:
    """Files over HTTP.

    `ranges`, `lengths`, `tags`: what the server knows. `faults`: asked before each answer; one that returns a
    response has answered. `requests`: what came. `sent`: bytes of bodies.
    """

    files: dict[str, bytes]
    ranges: bool = True
    lengths: bool = True
    tags: bool = True
    faults: list[Callable[[web.Request], Awaitable[web.StreamResponse | None]]] = field(default_factory=list)
    requests: list[web.Request] = field(default_factory=list)
    sent: int = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        for fault in self.faults:
            answer = await fault(request)
            if answer is not None:
                return answer
        content = self.files.get(request.path)
        if content is None:
            return web.Response(status=404, text="<h1>a page that is no model</h1>")
        return await self.body(request, content)

    async def body(self, request: web.Request, content: bytes) -> web.StreamResponse:
        headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"'} if self.tags else {}
        status = 200
        asked = request.headers.get("Range")
        size = len(content)
        if asked and self.ranges:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            if int(start) >= size:
                return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{size}"})
            stop = min(int(end) + 1 if end else size, size)
            content = content[int(start) : stop]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            status = 206
        self.sent += len(content)
        if self.lengths:
            return web.Response(status=status, body=content, headers=headers)
        answer = web.StreamResponse(status=status, headers=headers)
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        await answer.write(content)
        await answer.write_eof()
        return answer


def first(
    times: int, answer: Callable[[], web.StreamResponse]
) -> Callable[[web.Request], Awaitable[web.Response | None]]:
    """A fault of the first requests."""
    left = [times]

    async def fault(_request: web.Request) -> web.StreamResponse | None:
        left[0] -= 1
        return answer() if left[0] >= 0 else None

    return fault


@dataclass
class Hub:
    """A Hugging Face hub, as its interface is documented: revision, tree in pages, resolve, redirect to large files.

    `repositories`: by name, by revision, by path. Files from `large_from` bytes on are kept by their sha256, elsewhere.
    """

    repositories: dict[str, dict[str, dict[str, bytes]]]
    token: str = ""
    gated: bool = False
    page: int = 2
    large_from: int = 100
    elsewhere: str = ""
    requests: list[web.Request] = field(default_factory=list)
    tamper: Callable[[str, bytes], bytes] = lambda _path, content: content

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if request.path.startswith("/store/"):
            assert "Authorization" not in request.headers, "a token went to where the hub redirects"
            for revisions in self.repositories.values():
                for files in revisions.values():
                    for path, content in files.items():
                        if hashlib.sha256(content).hexdigest() == request.path.removeprefix("/store/"):
                            return await Files({}).body(request, self.tamper(path, content))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            if self.gated:
                return self._error(403, "GatedRepo", "Access to model org/repo is restricted.")
            return self._error(401, "RepoNotFound", "Repository Not Found")
        parts = [unquote(part) for part in request.raw_path.partition("?")[0].split("/")[1:]]
        if parts[:2] == ["api", "models"]:
            return self._api("/".join(parts[2:4]), parts[4], parts[5], "/".join(parts[6:]), request)
        return await self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), request)

    def commit(self, name: str, revision: str) -> str:
        return hashlib.sha1(f"{name}@{revision}".encode()).hexdigest()

    def _api(self, name: str, what: str, revision: str, path: str, request: web.Request) -> web.Response:
        revisions = self.repositories.get(name)
        if revisions is None:
            return self._error(401, "RepoNotFound", "Repository Not Found")
        if what == "revision":
            if revision not in revisions:
                return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return web.json_response({"id": name, "sha": self.commit(name, revision)})
        files = next(files for known, files in revisions.items() if self.commit(name, known) == revision)
        below = f"{path}/" if path else ""
        found = sorted(known for known in files if known.startswith(below))
        if not found:
            return self._error(404, "EntryNotFound", f"{path} does not exist on {revision}")
        if request.query.get("recursive") != "true":
            found = [known for known in found if "/" not in known.removeprefix(below)]
        at = int(request.query.get("cursor", "0"))
        entries: list[dict[str, object]] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "folder"}]
        for known in found[at : at + self.page]:
            content = files[known]
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry: dict[str, object] = {"type": "file", "oid": blob, "size": len(content), "path": known}
            if len(content) >= self.large_from:
                entry["oid"] = "1" * 40
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        headers = {}
        if at + self.page < len(found):
            query = {**request.query, "cursor": str(at + self.page)}
            url = request.url.with_query(query)
            headers["Link"] = f'<{url}>; rel="next"'
        return web.json_response(entries, headers=headers)

    async def _resolve(self, name: str, revision: str, path: str, request: web.Request) -> web.StreamResponse:
        files = next(files for known, files in self.repositories[name].items() if self.commit(name, known) == revision)
        content = files[path]
        if len(content) >= self.large_from:
            url = f"{self.elsewhere}/store/{hashlib.sha256(content).hexdigest()}?X-Amz-Signature=abc"
            return web.Response(status=302, headers={"Location": url})
        return await Files({}).body(request, self.tamper(path, content))

    def _error(self, status: int, code: str, text: str) -> web.Response:
        return web.json_response(
            {"error": text}, status=status, headers={"X-Error-Code": code, "X-Error-Message": text}
        )


@dataclass
class Registry:
    """An OCI registry, as the distribution specification has it: manifests, blobs with ranges, a token if asked."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    login: tuple[str, str] | None = None
    url: str = ""
    requests: list[web.Request] = field(default_factory=list)

    def blob(self, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return digest

    def put(
        self, tag: str, manifest: dict[str, object], kind: str = "application/vnd.oci.image.manifest.v1+json"
    ) -> str:
        content = json.dumps(manifest).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.manifests[tag] = self.manifests[digest] = (kind, content)
        return digest

    def push(self, tag: str, *layers: tuple[str, dict[str, str], bytes]) -> str:
        """A manifest of layers: media type, annotations, content."""
        told = [
            {"mediaType": kind, "digest": self.blob(content), "size": len(content), "annotations": notes}
            for kind, notes, content in layers
        ]
        return self.put(tag, {"schemaVersion": 2, "config": {}, "layers": told})

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if request.path == "/token":
            import aiohttp

            if self.login and request.headers.get("Authorization") != aiohttp.encode_basic_auth(*self.login):
                return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
            assert request.query["scope"] == "repository:org/model:pull"
            return web.json_response({"token": "TOKENOFTHEREGISTRY"})
        if self.login and request.headers.get("Authorization") != "Bearer TOKENOFTHEREGISTRY":
            challenge = f'Bearer realm="{self.url}/token",service="registry",scope="repository:org/model:pull"'
            return web.json_response({}, status=401, headers={"WWW-Authenticate": challenge})
        _, version, *name, what, reference = request.path.split("/")
        assert (version, "/".join(name)) == ("v2", "org/model")
        if what == "manifests" and reference in self.manifests:
            kind, content = self.manifests[reference]
            assert kind in request.headers["Accept"]
            return web.Response(body=content, content_type=kind)
        if what == "blobs" and reference in self.blobs:
            return await Files({}, tags=False).body(request, self.blobs[reference])
        return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
