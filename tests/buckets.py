"""Objects of an S3-compatible server on loopback: moto's, in a process that can be killed and come back as it was."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import boto3
import botocore.config

from tests.ports import number, reserved

ROOT: Final = Path(__file__).parents[1]
REGION: Final = "us-east-1"
KEYS: Final = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION}
DEADLINE: Final = 300.0  # only ends a test that hangs


class Cloud:
    """A server with one bucket, and what was put there: a server that comes back after a kill has it again."""

    def __init__(self, bucket: str = "models", **variables: str) -> None:
        """`variables` are of the server's environment."""
        self.bucket = bucket
        self._variables = variables
        self._held = reserved()
        self.port = number(self._held)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": self.endpoint, "NO_PROXY": "*", "no_proxy": "*"}
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name=REGION,
            config=botocore.config.Config(proxies={}, s3={"addressing_style": "path"}),
        )
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.kill()
        self._held.close()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.moto_server", "-H", "127.0.0.1", "-p", str(self.port)]
        environment, quiet = os.environ | self._variables, subprocess.DEVNULL
        self._server = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment, cwd=ROOT)
        deadline = time.monotonic() + DEADLINE
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        bucket = urllib.request.Request(f"{self.endpoint}/{self.bucket}", method="PUT")
        while True:
            try:
                opener.open(bucket, timeout=DEADLINE).close()
            except OSError:
                assert self._server.poll() is None, "moto's server ended; is it installed?"
                assert time.monotonic() < deadline
                time.sleep(0.05)  # between two attempts to connect
            else:
                return

    def kill(self) -> None:
        """SIGKILL. What moto holds is in its memory, and goes with it."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def hang(self) -> None:
        """Takes connections, and answers nothing until `go_on`."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def upload(self, folder: str | Path, prefix: str, *, last: tuple[str, ...] = ()) -> None:
        """File by file, as `aws s3 cp --recursive` does; those named `last` at the end."""
        for name in sorted(files(folder), key=lambda name: (name in last, name)):
            self.put(f"{prefix}/{name}", Path(folder, name).read_bytes())

    def remove(self, prefix: str) -> None:
        for key in self.keys(prefix + "/"):
            self.client.delete_object(Bucket=self.bucket, Key=key)

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def content(self) -> Mapping[str, bytes]:
        """All there is, to be put back."""
        return {key: self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in self.keys()}


def files(folder: str | Path) -> Iterator[str]:
    """Relative paths."""
    for above, _, names in os.walk(folder):
        yield from (os.path.relpath(os.path.join(above, name), folder) for name in names)


class Relay:
    """The address that a gateway knows, before a server that may be away: connections are refused while it is shut,
    and cut `after` so many bytes of answers, once."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._held = reserved()
        self.port = number(self._held)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.environment = {**cloud.environment, "AWS_ENDPOINT_URL": self.endpoint}
        self.passed = 0  # bytes of answers
        self.cuts = 0
        self.after: int | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.shut()
        self._held.close()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def shut(self) -> None:
        """From now on nothing is heard of the server; what was being answered is cut off."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, asks = await asyncio.open_connection("127.0.0.1", self.cloud.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, asks}
        try:
            await asyncio.gather(self._pump(reader, asks), self._pump(answers, writer, counted=True))
        except OSError:
            pass  # one of the two has gone
        finally:
            for each in (writer, asks):
                self._writers.discard(each)
                each.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, counted: bool = False) -> None:
        while block := await source.read(2**14):
            if counted:
                self.passed += len(block)
                if self.after is not None and self.passed >= self.after:
                    self.after = None
                    self.cuts += 1
                    raise ConnectionResetError
            target.write(block)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()
