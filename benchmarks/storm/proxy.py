"""Stands between an instance and its neighbour (a runtime, an etcd) and breaks the neighbour's word now and then."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PINGS = (bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + bytes(8)) * 2000
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


class EvilProxy:
    """Forwards each connection, and after a while does something to it.

    It changes bytes of what the neighbour says, keeps its answers back, floods with pings to which it does not read the
    answers, or hangs up.
    """

    def __init__(self, dial: Callable[[], Awaitable[Opened]], rng: Random) -> None:
        self._dial = dial
        self._rng = rng
        self.done: Counter[str] = Counter()
        self.is_evil = False
        self._open: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the instance."""
        self._open.add(writer)
        try:
            there, towards = await self._dial()
        except OSError:
            writer.close()
            return
        self._open.add(towards)
        evil = self._rng.choice(["mutate", "mute", "pings", "hang_up"])
        until = asyncio.get_running_loop().time() + self._rng.uniform(0.5, 4.0)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await asyncio.gather(self._forth(reader, towards), self._back(there, writer, evil, until))
        for one in (writer, towards):
            one.transport.abort()
            self._open.discard(one)

    async def _forth(self, reader: asyncio.StreamReader, towards: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            towards.write(data)
            await towards.drain()
        raise ConnectionResetError

    async def _back(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, evil: str, until: float) -> None:
        loop = asyncio.get_running_loop()
        while data := await there.read(65_536):
            if self.is_evil and loop.time() > until:
                self.done[evil] += 1
                match evil:
                    case "mutate":
                        at = self._rng.randrange(len(data))
                        data = data[:at] + self._rng.randbytes(1) + data[at + 1 :]
                        until = loop.time() + 0.2
                    case "mute":
                        continue
                    case "hang_up":
                        break
                    case _:
                        await self._flood(writer)
                        break
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    async def _flood(self, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                for _ in range(100):
                    writer.write(PINGS)
                    await writer.drain()

    def hang_up(self) -> None:
        """End all connections."""
        for writer in list(self._open):
            writer.transport.abort()
