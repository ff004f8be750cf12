"""A real S3-compatible server on loopback: moto's, in a process of its own."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tests import ports
from tests.running import DEADLINE

REGION = "us-east-1"


class Bucket:
    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self._numbers = itertools.count()
        self.options = {
            "aws_endpoint": self.endpoint,
            "allow_http": "true",
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
            "aws_region": REGION,
        }

    def fresh(self) -> str:
        """The URI of a place in the bucket that nobody has used."""
        return f"s3://knowledge/place-{next(self._numbers)}"


@contextmanager
def serving() -> Iterator[Bucket]:
    with ports.reserved() as held:
        port = ports.number(held)
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            bucket = Bucket(port)
            _made(f"{bucket.endpoint}/knowledge", server)
            yield bucket
        finally:
            server.terminate()
            server.wait()


def _made(url: str, server: subprocess.Popen[bytes]) -> None:
    """The bucket itself, once the server answers."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=DEADLINE).close()
        except OSError:
            assert server.poll() is None, "moto's server ended; is it installed?"
            assert time.monotonic() < deadline
            time.sleep(0.05)  # between two attempts to connect
        else:
            return
