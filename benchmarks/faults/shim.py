"""A wire that can be cut: forwards connections between processes of this machine, told apart by who dials.

Each instance advertises an address of the shim; a connection is passed on to the instance itself, on
127.0.0.1 and the same port. A cut wire is silent: connections stay open and nothing passes, as when a
cable is pulled.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CHUNK = 65_536


@dataclass
class Shim:
    """Forwards to several targets; `cut` names pairs between which nothing passes.

    Attributes:
        pids: Name of each process to its id, asked anew for every connection.
    """

    pids: Callable[[], dict[str, int]]
    cut: dict[frozenset[str], None] = field(default_factory=dict)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _tasks: dict[asyncio.Task[None], None] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def forward(self, name: str, host: str, port: int, target_port: int) -> None:
        """Pass connections to `host:port` on to `name`, which listens on 127.0.0.1:`target_port`."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks[task] = None
            try:
                await self._carry(name, target_port, reader, writer)
            finally:
                self._tasks.pop(task, None)

        self._servers.append(await asyncio.start_server(accept, host, port))

    def separate(self, one: str, others: list[str]) -> None:
        """Cut the wires between one process and the others."""
        for other in others:
            self.cut[frozenset((one, other))] = None

    def heal(self) -> None:
        """Mend every wire."""
        self.cut.clear()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def close(self) -> None:
        """Stop forwarding."""
        for server in self._servers:
            server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(
        self, name: str, target_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        address = writer.get_extra_info("peername")
        dialler = await asyncio.to_thread(self._who, address[1])
        if dialler is None:
            writer.transport.abort()
            return
        pair = frozenset((dialler, name))
        await self._open(pair)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target_port)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(
                self._pump(pair, reader, far_writer), self._pump(pair, far_reader, writer), return_exceptions=True
            )
        finally:
            for end in (writer, far_writer):
                end.close()

    async def _pump(self, pair: frozenset[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._open(pair)
                writer.write(data)
                await writer.drain()
            await self._open(pair)
        writer.close()

    async def _open(self, pair: frozenset[str]) -> None:
        while pair in self.cut:
            await self._changed.wait()

    def _who(self, port: int) -> str | None:
        """The process that owns the local end of a connection from `port`; None: it has closed it already."""
        inode = _inode_of(port)
        for name, pid in self.pids().items():
            with contextlib.suppress(OSError):
                for entry in os.scandir(f"/proc/{pid}/fd"):
                    with contextlib.suppress(OSError):
                        if inode and os.readlink(entry.path) == f"socket:[{inode}]":  # noqa: PTH115 - no path
                            return name
        return None


def _inode_of(port: int) -> str | None:
    wanted = f":{port:04X}"
    for table in ("tcp", "tcp6"):  # gRPC's own sockets are IPv6 ones, also to an IPv4 address
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[9] != "0":
                return fields[9]
    return None
