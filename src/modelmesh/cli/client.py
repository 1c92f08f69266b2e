"""Calls of the command line to an instance, and what fails with them, in words."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from modelmesh._proto import admin_pb2
from modelmesh.cli.text import console, printable, say
from modelmesh.client.connection import Tls, channel_options

DEFAULT_ADDRESS = "localhost:8033"
CERTIFICATE = "MODELMESH_CERT"
KEY = "MODELMESH_KEY"
"""Variables that name PEM files, for instances that ask clients for a certificate."""

API_KEY = "MODELMESH_API_KEY"
"""Variable with an API key or a token, for instances that ask who calls."""

LARGEST_PAGE = 1000
CONNECT_S = 1.0
"""To find out whether an instance listens there, after a call failed."""

Answer = TypeVar("Answer", bound=Message)
Item = TypeVar("Item")


class Client:
    """A connection to one instance; `connect` is how commands get one.

    Args:
        address: Its serving endpoint, `host:port`.
        authority: PEM file of the authority that signed its certificate; None: clear text.
        timeout_s: For each call.

    Raises:
        OSError: A PEM file cannot be read.
        ValueError: One of the variables is set without the other.
    """

    def __init__(self, address: str, *, authority: Path | None = None, timeout_s: float = 30.0) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self.doing = ""
        key = os.environ.get(API_KEY, "")
        self._credential = (("authorization", f"Bearer {key}"),) if key else ()
        options = channel_options(address)
        if authority is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            tls = Tls(authority, os.environ.get(CERTIFICATE) or None, os.environ.get(KEY) or None)
            self._channel = grpc.secure_channel(address, tls.credentials(), options=options)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def reaches(self) -> bool:
        """Whether an instance is there at all."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout=CONNECT_S)
        except grpc.FutureTimeoutError:
            return False
        return True

    def call(
        self,
        method: str,
        request: Message,
        answer: type[Answer],
        *,
        timeout_s: float | None = None,
        doing: str = "",
        headers: Sequence[tuple[str, str | bytes]] = (),
    ) -> Answer:
        """Call a unary method of the mesh (`pkg.Service/Method`).

        `doing` is what people may have to wait for, like "loading m": shown on a terminal, and named when it fails.
        """
        call: Callable[..., Any] = self._channel.unary_unary(
            f"/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        self.doing = doing
        with _shown(doing):
            result: Answer = call(request, timeout=timeout_s or self._timeout_s, metadata=(*headers, *self._credential))
        return result

    def answers(
        self,
        method: str,
        request: Message,
        answer: type[Answer],
        *,
        timeout_s: float,
        doing: str = "",
        headers: Sequence[tuple[str, str | bytes]] = (),
    ) -> Iterator[Answer]:
        """Call a method that takes a stream with one request, and yield its answers as they come; `doing` as of `call`."""
        call: Callable[..., Any] = self._channel.stream_stream(
            f"/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        self.doing = doing
        yield from call(iter((request,)), timeout=timeout_s, metadata=(*headers, *self._credential))

    def stream(self, method: str, request: Message, answer: type[Answer]) -> Iterator[Answer]:
        """Call a method of the mesh that answers with many messages, without end; leave the loop to end the call."""
        call: Callable[..., Any] = self._channel.unary_stream(
            f"/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        self.doing = ""
        yield from call(request, metadata=self._credential)

    def pages(self, page: Callable[[int, str], tuple[Iterable[Item], str]], *, limit: int) -> tuple[list[Item], bool]:
        """Ask for page after page of a listing: at most `limit` items, and whether there are more.

        `page` asks for at most so many items, from a token on, and returns them and the token of the next page.
        """
        found: list[Item] = []
        token = ""
        while True:
            items, token = page(min(LARGEST_PAGE, limit - len(found)), token)
            found.extend(items)
            if not token or len(found) >= limit:
                return found, bool(token)

    def models(self, *, prefix: str = "", limit: int = sys.maxsize) -> tuple[list[admin_pb2.Model], bool]:
        """Registered models by id: at most `limit`, and whether there are more."""

        def page(size: int, token: str) -> tuple[Iterable[admin_pb2.Model], str]:
            request = admin_pb2.ListModelsRequest(page_size=size, page_token=token, prefix=prefix)
            answer = self.call("modelmesh.v1.Admin/ListModels", request, admin_pb2.ListModelsResponse)
            return answer.models, answer.next_page_token

        return self.pages(page, limit=limit)

    def vmodels(self, *, prefix: str = "", limit: int = sys.maxsize) -> tuple[list[admin_pb2.VModel], bool]:
        """Vmodels by id: at most `limit`, and whether there are more."""

        def page(size: int, token: str) -> tuple[Iterable[admin_pb2.VModel], str]:
            request = admin_pb2.ListVModelsRequest(page_size=size, page_token=token, prefix=prefix)
            answer = self.call("modelmesh.v1.Admin/ListVModels", request, admin_pb2.ListVModelsResponse)
            return answer.vmodels, answer.next_page_token

        return self.pages(page, limit=limit)


def described(message: Message) -> dict[str, Any]:
    """A message for machines: a JSON object with the names of the `.proto` file."""
    return MessageToDict(message, preserving_proto_field_name=True)


def _shown(doing: str) -> AbstractContextManager[object]:
    """A sign of life on a terminal, beside what machines read."""
    if not doing or not sys.stderr.isatty():
        return contextlib.nullcontext()
    from rich.text import Text

    return console(error=True).status(Text(f"{printable(doing)} …"))


@contextlib.contextmanager
def connect(address: str, authority: Path | None = None) -> Iterator[Client]:
    """A client whose failed calls end the command with one line and exit status 1."""
    try:
        client = Client(address, authority=authority)
    except OSError as error:
        typer.echo(f"modelmesh: cannot read {error.filename}: {error.strerror}", err=True)
        raise typer.Exit(1) from error
    except ValueError as error:
        typer.echo(f"modelmesh: {error}: {CERTIFICATE} and {KEY}", err=True)
        raise typer.Exit(1) from error
    try:
        yield client
    except grpc.RpcError as error:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and not client.reaches():
            text = f"no instance answers at {address}; start one with `modelmesh up`, or give --address"
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            text = f"the instance at {address} did not answer in time"
        else:
            text = f"{details or 'the call failed'} ({code.name})"
        say(f"modelmesh: {f'{client.doing}: ' * bool(client.doing)}{text}", error=True)
        raise typer.Exit(1) from error
    finally:
        client.close()
