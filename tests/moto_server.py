"""moto's server, in which a conditional write is one step, as it is in S3.

moto looks whether the condition holds, and then writes: of several that make one object in the same moment, more than
one is told that it has made it.

    python -m tests.moto_server -H 127.0.0.1 -p PORT
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from moto import server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

CONDITIONS: Final = {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"}


class Application(server.DomainDispatcherApplication):
    _writing = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in {"PUT", "POST"} and environ.keys() & CONDITIONS:
            with self._writing:
                return super().__call__(environ, start_response)
        return super().__call__(environ, start_response)


if __name__ == "__main__":
    server.DomainDispatcherApplication = Application  # type: ignore[misc]
    server.main()
