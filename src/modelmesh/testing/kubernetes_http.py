"""The API server in memory over HTTP, so that a real client can be tested against it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from modelmesh.kubernetes.kinds import KINDS, Key, Kind, Object
from modelmesh.kubernetes.ports import ApiError, Scope
from modelmesh.testing.kubernetes import MemoryApi

_BY_PLURAL = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}


@asynccontextmanager
async def serve_api(api: MemoryApi) -> AsyncIterator[str]:
    """Serve on a free port of this machine; gives the URL."""
    server = _Server(api)
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


class _Server:
    def __init__(self, api: MemoryApi) -> None:
        self._api = api

    async def answer(self, request: web.Request) -> web.StreamResponse:
        try:
            kind, key, subresource = _target(request.path)
            if request.method == "GET" and request.query.get("watch") == "true":
                return await self._watch(request, kind, key)
            return web.json_response(await self._call(request, kind, key, subresource))
        except ApiError as error:
            return _refused(error)

    async def _call(self, request: web.Request, kind: Kind, key: Key, subresource: str) -> Object:
        query = request.query
        body: Object = json.loads(await request.read() or b"{}")
        match request.method:
            case "GET" if key.name:
                found = await self._api.read(kind, key)
                if found is None:
                    raise ApiError(404, f"{kind.plural} {key} not found")
                return found
            case "GET":
                page = await self._api.list(
                    kind, _scope(request, key), limit=int(query["limit"]), after=query.get("continue", "")
                )
                metadata = {"resourceVersion": page.revision, **({"continue": page.more} if page.more else {})}
                return {"kind": f"{kind.name}List", "metadata": metadata, "items": list(page.items)}
            case "PATCH" if "apply" in request.content_type:
                return await self._api.apply(kind, body, manager=query["fieldManager"])
            case "PATCH":
                return await self._api.merge(kind, key, body, subresource=subresource, manager=query["fieldManager"])
            case "POST":
                return await self._api.create(kind, body)
            case "PUT":
                return await self._api.replace(kind, body)
            case "DELETE":
                if await self._api.read(kind, key) is None:
                    raise ApiError(404, f"{kind.plural} {key} not found")
                await self._api.delete(kind, key, uid=body.get("preconditions", {}).get("uid", ""))
                return {"kind": "Status", "status": "Success"}
        raise ApiError(405, "method not allowed")

    async def _watch(self, request: web.Request, kind: Kind, key: Key) -> web.StreamResponse:
        events = self._api.watch(kind, _scope(request, key), revision=request.query["resourceVersion"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await response.prepare(request)
            async for event in events:
                await response.write(json.dumps({"type": event.change.value, "object": event.item}).encode() + b"\n")
        except ApiError as error:
            if error.code == 0:
                if request.transport is not None:
                    request.transport.abort()
            else:
                status = {"kind": "Status", "code": error.code, "message": str(error)}
                await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
        except ConnectionResetError:
            pass  # the client has gone
        finally:
            await events.aclose()
        return response


def _target(path: str) -> tuple[Kind, Key, str]:
    """What a path names. Raises ApiError(404)."""
    words = path.strip("/").split("/")
    group, version, rest = ("", words[1], words[2:]) if words[0] == "api" else (words[1], words[2], words[3:])
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    kind = _BY_PLURAL.get((group, version, rest[0]))
    if kind is None:
        raise ApiError(404, "the server could not find the requested resource")
    name = rest[1] if len(rest) > 1 else ""
    return kind, Key(namespace, name), rest[2] if len(rest) > 2 else ""


def _scope(request: web.Request, key: Key) -> Scope:
    query = request.query
    return Scope(key.namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""))


def _refused(error: ApiError) -> web.Response:
    body = {"kind": "Status", "code": error.code or 503, "message": str(error)}
    headers = {"Retry-After": str(int(error.retry_after_s))} if error.retry_after_s else {}
    return web.json_response(body, status=error.code or 503, headers=headers)
