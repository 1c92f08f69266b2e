"""How often a content is fetched that many want at once: a server that counts, and processes that share one disk cache."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from modelmesh.storage import DiskCache, Puller, parse_location


class _Counted(BaseHTTPRequestHandler):
    """One file for every path, in ranges; `sent` are bytes of bodies."""

    content: ClassVar[bytes] = b""
    sent: ClassVar[list[int]] = []
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """A range, or all."""
        size, asked = len(self.content), self.headers.get("Range")
        first, last = 0, size - 1
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(last - first + 1))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        self.wfile.write(self.content[first : last + 1])
        self.sent.append(last - first + 1)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that has read enough closes."""


def counted(folder: Path, *, processes: int, callers: int, size_bytes: int) -> dict[str, Any]:
    """Bytes that were sent for one content that all callers want at once."""
    _Counted.content, _Counted.sent = os.urandom(size_bytes), []
    server = _Server(("127.0.0.1", 0), _Counted)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/model.bin"
    shares = [callers // processes + (number < callers % processes) for number in range(processes)]
    command = [sys.executable, "-m", "benchmarks.storage.counting", str(folder), url]
    running = [subprocess.Popen([*command, str(share)], stdout=subprocess.PIPE, text=True) for share in shares]
    done = [json.loads(process.communicate()[0]) for process in running]
    server.shutdown()
    return {
        "callers": callers,
        "processes": processes,
        "content_bytes": size_bytes,
        "sent_bytes": sum(_Counted.sent),
        "served": sum(done),
    }


def main(folder: Path, url: str, callers: int) -> int:
    """Pull the same so many times at once; how many had it whole."""

    async def all_of_them() -> int:
        async with Puller(DiskCache(folder, 10**9), environ={}) as puller:
            found = await asyncio.gather(*(puller.pull(parse_location(url)) for _ in range(callers)))
            sizes = {pulled.path.stat().st_size for pulled in found}
            for pulled in found:
                pulled.release()
            assert len(sizes) == 1
            return len(found)

    print(json.dumps(asyncio.run(all_of_them())))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
