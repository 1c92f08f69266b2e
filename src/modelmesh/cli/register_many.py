"""`modelmesh models register-many`: models of a file, thousands in one call."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelmesh.cli.models import LOAD_TIMEOUT_S, LOCAL, Address, AsJson, Authority
from modelmesh.cli.text import say

if TYPE_CHECKING:
    from modelmesh._proto import model_mesh_pb2

LARGEST_CALL_BYTES = 900_000
"""Of a call's message: the services of an instance take 1 MiB."""

LARGEST_CALL = 10_000
TEXTS = ("id", "type", "path", "key")
SHOWN = 20
"""Failures that are shown one by one."""


def register_many(
    file: Annotated[
        str,
        typer.Argument(
            help='Lines of JSON: {"id": …, "type": …, "path": …, "key": …, "load": false}; `-`: standard input.'
        ),
    ],
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Register many models with few calls. Each is answered for itself; exit status 1 if one could not be registered."""
    from modelmesh._proto import admin_pb2 as pb
    from modelmesh.cli.client import connect

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        requests = [_request(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    except (OSError, ValueError) as error:
        say(f"modelmesh models register-many: {error}", error=True)
        raise typer.Exit(2) from error
    failed: list[dict[str, Any]] = []
    with connect(address, ca) as client:
        for batch in _batches(requests):
            answer = client.call(
                "modelmesh.v1.Admin/RegisterModels",
                pb.RegisterModelsRequest(requests=batch),
                pb.RegisterModelsResponse,
                timeout_s=LOAD_TIMEOUT_S,
                doing=f"registering {len(batch)} models",
            )
            failed += [{"id": one.model_id, "error": one.message} for one in answer.results if one.code]
    if as_json:
        say(json.dumps({"registered": len(requests) - len(failed), "failed": failed}))
    else:
        for one in failed[:SHOWN]:
            say(f"{one['id']}: {one['error']}", error=True)
        say(f"{len(requests) - len(failed)} of {len(requests)} models are registered")
    if failed:
        raise typer.Exit(1)


def _request(number: int, line: str) -> "model_mesh_pb2.RegisterModelRequest":
    """A line of the file. Raises ValueError that names it."""
    from modelmesh._proto import model_mesh_pb2 as mesh

    try:
        body = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    if not isinstance(body, dict) or not {"id", "type"} <= body.keys() <= {*TEXTS, "load"}:
        raise ValueError(f"line {number}: it must be an object with id and type, and may have path, key and load")
    for name in TEXTS:
        if not isinstance(body.get(name, ""), str):
            raise ValueError(f"line {number}: {name} is no text")  # noqa: TRY004 - as every other error in a line
    info = mesh.ModelInfo(type=body["type"], path=body.get("path", ""), key=body.get("key", ""))
    return mesh.RegisterModelRequest(modelId=body["id"], modelInfo=info, loadNow=body.get("load") is True)


def _batches(
    requests: "list[model_mesh_pb2.RegisterModelRequest]",
) -> "Iterator[list[model_mesh_pb2.RegisterModelRequest]]":
    """Requests in calls that are no larger than a call may be."""
    batch: list[model_mesh_pb2.RegisterModelRequest] = []
    size = 0
    for request in requests:
        more = request.ByteSize() + 8  # its tag and length
        if batch and (size + more > LARGEST_CALL_BYTES or len(batch) == LARGEST_CALL):
            yield batch
            batch, size = [], 0
        batch.append(request)
        size += more
    if batch:
        yield batch
