"""A model hub on a free port of this machine: what the real client of huggingface-hub asks for, and mishaps on demand.

Repositories are whatever directories they are given. Large files are answered with a redirect, as by the real hub.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from aiohttp import web
from aiohttp.test_utils import TestServer

LARGE: Final = 100_000  # bytes; from there on the hub keeps files by their SHA-256
BLOCK: Final = 256 * 1024


@dataclass
class Repository:
    """`files` by path. `token` is the one that may read it; a gated one says so, a private one hides."""

    files: dict[str, bytes]
    commit: str
    token: str | None = None
    gated: bool = False
    corrupt: set[str] = field(default_factory=set)  # files whose bytes are not those that are listed

    @classmethod
    def of(cls, directory: str | Path, *, seed: str = "", **options: Any) -> Repository:
        root = Path(directory)
        files = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
        return cls(files, hashlib.sha1(f"{directory}{seed}".encode()).hexdigest(), **options)


@dataclass(frozen=True)
class Mishap:
    """What befalls the next answer with a file's bytes, after so many of them: the connection is closed early or
    reset, or nothing more comes until `Hub.go` is set."""

    after: int
    how: Literal["close", "reset", "hold"]


class Hub:
    """`async with Hub({"org/name": Repository(...)}) as hub`: `hub.url`, and every request for a file in `asked`."""

    def __init__(self, repositories: dict[str, Repository]) -> None:
        self.repositories = repositories
        self.mishaps: dict[str, list[Mishap]] = {}
        self.asked: list[tuple[str, str | None]] = []  # path of the file, Range
        self.looks = 0
        self.shown: set[str | None] = set()  # what the host of the large files was shown as Authorization
        self.broken: int | None = None  # the status of every answer
        self.held = asyncio.Event()
        self.go = asyncio.Event()
        app = web.Application()
        for name in ("{org}/{name}", "{name}"):
            app.router.add_get(f"/api/models/{name}/revision/{{revision}}", self._look)
            app.router.add_get(f"/{name}/resolve/{{commit}}/{{path:.+}}", self._resolve)
        app.router.add_get("/cdn/{commit}/{path:.+}", self._cdn)
        self._server = TestServer(app)

    async def __aenter__(self) -> Hub:
        await self._server.start_server()
        self.url = str(self._server.make_url("")).rstrip("/")
        return self

    async def __aexit__(self, *failure: object) -> None:
        self.go.set()
        await self._server.close()

    def ranges(self, path: str) -> list[str | None]:
        """The Range of every request for this file."""
        return [found for name, found in self.asked if name == path]

    async def _look(self, request: web.Request) -> web.Response:
        self.looks += 1
        name = "/".join(request.match_info[part] for part in ("org", "name") if part in request.match_info)
        repository = self._open(request, name)
        if isinstance(repository, web.Response):
            return repository
        if request.match_info["revision"] not in {"main", repository.commit}:
            return web.Response(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        siblings = [_sibling(path, content) for path, content in repository.files.items()]
        return web.json_response({"id": name, "modelId": name, "sha": repository.commit, "siblings": siblings})

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        name = "/".join(request.match_info[part] for part in ("org", "name") if part in request.match_info)
        repository = self._open(request, name)
        if isinstance(repository, web.Response):
            return repository
        path = request.match_info["path"]
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{hashlib.sha1(repository.files[path]).hexdigest()}"'}
        if len(repository.files[path]) >= LARGE:
            return web.Response(status=302, headers=headers | {"Location": self._elsewhere(repository.commit, path)})
        return await self._send(request, repository, path, headers)

    def _elsewhere(self, commit: str, path: str) -> str:
        """The same server by another name: another host to a client."""
        return f"http://localhost:{self._server.port}/cdn/{commit}/{path}"

    async def _cdn(self, request: web.Request) -> web.StreamResponse:
        commit, path = request.match_info["commit"], request.match_info["path"]
        self.shown.add(request.headers.get("Authorization"))
        repository = next(found for found in self.repositories.values() if found.commit == commit)
        return await self._send(request, repository, path, {})

    def _open(self, request: web.Request, name: str) -> Repository | web.Response:
        if self.broken:
            return web.Response(status=self.broken)
        repository = self.repositories.get(name)
        if repository is None:
            return web.Response(status=401, headers={"X-Error-Code": "RepoNotFound"})
        if repository.token and request.headers.get("Authorization") != f"Bearer {repository.token}":
            code = "GatedRepo" if repository.gated else "RepoNotFound"
            return web.Response(status=403 if repository.gated else 401, headers={"X-Error-Code": code})
        return repository

    async def _send(
        self, request: web.Request, repository: Repository, path: str, headers: dict[str, str]
    ) -> web.StreamResponse:
        self.asked.append((path, request.headers.get("Range")))
        content = repository.files[path]
        if path in repository.corrupt:
            content = bytes(len(content))
        start = request.http_range.start or 0
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = len(content) - start
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        await response.prepare(request)
        mishap = self.mishaps[path].pop(0) if self.mishaps.get(path) else None
        end = len(content) if mishap is None else start + mishap.after
        with contextlib.suppress(ConnectionError):  # the client was killed, or stopped
            for at in range(start, end, BLOCK):
                await response.write(content[at : min(end, at + BLOCK)])
            if mishap is not None:
                await self._befall(request, mishap)
                if mishap.how != "hold":
                    return response
                await response.write(content[end:])
            await response.write_eof()
        return response

    async def _befall(self, request: web.Request, mishap: Mishap) -> None:
        assert request.transport is not None
        if mishap.how == "hold":
            self.held.set()
            await self.go.wait()
        elif mishap.how == "reset":
            request.transport.abort()
        else:
            request.transport.close()


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    large = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    lfs = {"lfs": large} if len(content) >= LARGE else {}
    return {"rfilename": path, "size": len(content), "blobId": blob, **lfs}


def environment(**given: str) -> dict[str, str]:
    """This process's environment, without what says where a hub is or how to get there."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "DROPGATE_", "MODELS_DIR")) and "proxy" not in name.lower()
    }
    return kept | given
