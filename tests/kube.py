"""An API server small enough to read, for the real `kubectl`: one pod, whose file system is this machine's.

It answers what `kubectl cp`, `kubectl exec` and `kubectl get pods` ask: the pod, and `exec` as a WebSocket
(`v5.channel.k8s.io`: the first byte of a message is its channel), and runs the real command. So the bytes arrive as in
a cluster, in the client's order and by the container's `tar`. It proves nothing about kubelets, other PID namespaces or
fsGroup.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pytest
from aiohttp import WSMsgType, web

NAMESPACE: Final = "models"
POD: Final = "gateway-0"
PROTOCOL: Final = "v5.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR, CLOSE = 0, 1, 2, 3, 255
OLDEST: Final = (1, 30)  # before it kubectl spoke SPDY
DEADLINE: Final = 300.0  # seconds; generous, it only ends a test that hangs


@dataclass(frozen=True)
class Finished:
    status: int
    out: str
    err: str


class KubeServer:
    """`async with KubeServer(folder)`; `folder` takes the kubeconfig.

    `bytes_per_second` slows what a command reads; `stall_after` holds it up after that many bytes, once, until
    `release` or `kill`. `environment` is what commands in the pod have beside this machine's.
    """

    def __init__(
        self,
        folder: Path,
        *,
        bytes_per_second: float = 0,
        stall_after: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.kubeconfig = folder / "kubeconfig"
        self.bytes_per_second = bytes_per_second
        self.stall_after = stall_after
        self.environment = {**os.environ, **(environment or {})}
        self.commands: list[list[str]] = []  # that ran in the pod
        self.stalled = asyncio.Event()
        self._go_on = asyncio.Event()
        self._cut = False
        self._sessions = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._runner = web.AppRunner(self._application(), access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.kubeconfig.write_text(kubeconfig(f"http://{host}:{port}"))
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._go_on.set()
        await self._runner.cleanup()

    async def until_stalled(self) -> None:
        async with asyncio.timeout(DEADLINE):
            await self.stalled.wait()

    def release(self) -> None:
        """Lets a stalled copy go on."""
        self._go_on.set()

    async def kill(self, client: asyncio.subprocess.Process) -> None:
        """`kill -9` of a stalled client; what it had on the way is lost. Returns when the pod's command has ended."""
        client.kill()
        await client.wait()
        self._cut = True
        self._go_on.set()
        async with asyncio.timeout(DEADLINE):
            await self._idle.wait()
        self._cut = False

    async def kubectl(self, *arguments: str | Path) -> Finished:
        client = await self.start_kubectl(*arguments)
        async with asyncio.timeout(DEADLINE), _killed(client):
            out, err = await client.communicate()
        assert client.returncode is not None
        return Finished(client.returncode, out.decode(), err.decode())

    async def start_kubectl(self, *arguments: str | Path) -> asyncio.subprocess.Process:
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", *map(str, arguments)]
        return await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )

    def _application(self) -> web.Application:
        pod = f"/api/v1/namespaces/{NAMESPACE}/pods/{POD}"
        application = web.Application()
        application.add_routes(
            [
                web.get("/version", _answer({"major": "1", "minor": "32", "gitVersion": "v1.32.0"})),
                web.get("/api", _answer({"kind": "APIVersions", "versions": ["v1"]})),
                web.get("/apis", _answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})),
                web.get("/api/v1", _answer(RESOURCES)),
                web.get(pod.rpartition("/")[0], _pods),
                web.get(pod, _answer(POD_OBJECT)),
                web.get(pod + "/exec", self._exec),
            ]
        )
        return application

    async def _exec(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=[PROTOCOL], max_msg_size=0)
        await socket.prepare(request)
        self._sessions += 1
        self._idle.clear()
        try:
            await self._run(socket, request.query.getall("command"), "stdin" in request.query)
        finally:
            self._sessions -= 1
            if self._sessions == 0:
                self._idle.set()
        return socket

    async def _run(self, socket: web.WebSocketResponse, command: list[str], with_stdin: bool) -> None:
        self.commands.append(command)
        source = asyncio.subprocess.PIPE if with_stdin else asyncio.subprocess.DEVNULL
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=source, stdout=pipe, stderr=pipe, env=self.environment
            )
        except OSError as error:
            await _finish(socket, {"status": "Failure", "reason": "InternalError", "message": str(error)})
            return
        async with asyncio.TaskGroup() as tasks:
            feeding = tasks.create_task(self._feed(socket, process.stdin))
            out = tasks.create_task(_forward(process.stdout, socket, STDOUT))
            err = tasks.create_task(_forward(process.stderr, socket, STDERR))
            await asyncio.wait({out, err})
            status = await process.wait()
            feeding.cancel()
        await _finish(socket, _status(status))

    async def _feed(self, socket: web.WebSocketResponse, stdin: asyncio.StreamWriter | None) -> None:
        """From the client to the command, until the client closes its end, or is gone."""
        fed = 0
        async for message in socket:
            channel, content = _split(message.data)
            if message.type is not WSMsgType.BINARY or channel == CLOSE or self._cut:
                break
            if stdin is None or channel != STDIN:
                continue
            while content and not self._cut:
                content, sent = await self._feed_some(stdin, content, fed)
                fed += sent
        if stdin is not None:
            stdin.close()
            with contextlib.suppress(ConnectionError):
                await stdin.wait_closed()

    async def _feed_some(self, stdin: asyncio.StreamWriter, content: bytes, fed: int) -> tuple[bytes, int]:
        """Writes up to where the copy is to stall; answers the rest, and how much it wrote."""
        size = len(content)
        if self.stall_after is not None and not self._go_on.is_set():
            size = min(size, self.stall_after - fed)
            if size == 0:
                self.stalled.set()
                await self._go_on.wait()
                return content, 0
        with contextlib.suppress(ConnectionError):  # the command has ended, and its status says why
            stdin.write(content[:size])
            await stdin.drain()
        if self.bytes_per_second:
            await asyncio.sleep(size / self.bytes_per_second)
        return content[size:], size


@contextlib.asynccontextmanager
async def _killed(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """No client outlives its test."""
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _forward(stream: asyncio.StreamReader | None, socket: web.WebSocketResponse, channel: int) -> None:
    assert stream is not None
    while content := await stream.read(65536):
        with contextlib.suppress(ConnectionError):  # the client is gone; the command is still to be read dry
            await socket.send_bytes(bytes([channel]) + content)


async def _finish(socket: web.WebSocketResponse, status: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionError):
        await socket.send_bytes(bytes([ERROR]) + json.dumps({"metadata": {}, **status}).encode())
        await socket.close()


def _split(data: bytes | None) -> tuple[int, bytes]:
    return (data[0], data[1:]) if data else (CLOSE, b"")


def _status(exit_status: int) -> dict[str, Any]:
    if exit_status == 0:
        return {"status": "Success"}
    return {
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: {exit_status}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(exit_status)}]},
    }


def _answer(document: dict[str, Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(document)

    return handler


async def _pods(request: web.Request) -> web.Response:
    """The pod, if it has the labels that are asked for."""
    labels = POD_OBJECT["metadata"]["labels"]
    wanted = dict(pair.split("=", 1) for pair in request.query.get("labelSelector", "").split(",") if pair)
    items = [POD_OBJECT] if wanted.items() <= labels.items() else []
    return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})


RESOURCES: Final = {
    "kind": "APIResourceList",
    "groupVersion": "v1",
    "resources": [{"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]}],
}
POD_OBJECT: Final[dict[str, Any]] = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {"name": POD, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/name": "dropgate"}},
    "spec": {"containers": [{"name": "gateway", "image": "dropgate"}]},
    "status": {"phase": "Running"},
}


def kubeconfig(server: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}],
            "users": [{"name": "test", "user": {}}],
            "current-context": "test",
        }
    )


def pod_path(path: Path) -> str:
    """How `kubectl cp` names a path in the pod."""
    return f"{NAMESPACE}/{POD}:{path}"


def require_kubectl() -> None:
    """Skips the test, with the reason, where there is no kubectl that speaks WebSocket."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; this test drives the real client, 1.30 or newer")
    answer = subprocess.run(
        ["kubectl", "version", "--client", "--output=json"],
        capture_output=True,
        check=False,
        env={**os.environ, "KUBECONFIG": os.devnull},
    )
    found = re.search(rb'"gitVersion": *"v(\d+)\.(\d+)', answer.stdout)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        pytest.skip(f"kubectl 1.30 or newer is needed; this one says {answer.stdout or answer.stderr!r}")
