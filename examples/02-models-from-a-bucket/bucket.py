"""A local S3 that counts what it sends: moto's server, with `/-/sent` beside it.

    python bucket.py PORT

Objects are put and read as in S3. `GET /-/sent` answers with the bytes of each object that were sent, as JSON.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

COUNTS = "/-/sent"
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Counting:
    """A WSGI application that counts the bytes of objects."""

    def __init__(self, inner: Application) -> None:
        self._inner = inner
        self._sent: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        path = environ["PATH_INFO"]
        if path == COUNTS:
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self._sent).encode()]
        statuses: list[str] = []

        def started(status: str, *more: Any) -> Any:
            statuses.append(status)
            return start_response(status, *more)

        answer = self._inner(environ, started)
        is_object = environ["REQUEST_METHOD"] == "GET" and not environ.get("QUERY_STRING")
        return self._counted(path, answer) if is_object and statuses[0].startswith("20") else answer

    def _counted(self, path: str, answer: Iterable[bytes]) -> Iterator[bytes]:
        for piece in answer:
            self._sent[path] += len(piece)
            yield piece


if __name__ == "__main__":
    served = Counting(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", int(sys.argv[1]), served, threaded=True)
