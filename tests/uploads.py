"""The hub of the tests, taking models too: what the real client of huggingface-hub sends when it pushes.

Large files come first, by their SHA-256, to wherever the hub's answer says; a commit names them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Final

from aiohttp import web

from tests.hub import LARGE, Hub, Repository

WRITER: Final = "hf_writer"
READER: Final = "hf_reader"


class UploadHub(Hub):
    """`organizations` are those that WRITER may push to; READER only reads. `sent` has the paths and digests of bytes
    that came, in order; `refuse` maps a step (create, batch, bytes, commit) to the status that it is answered with."""

    def __init__(self, organizations: set[str], repositories: dict[str, Repository] | None = None) -> None:
        super().__init__(repositories or {})
        self.organizations = organizations
        self.public: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.messages: list[str] = []
        self.refuse: dict[str, int] = {}
        self.cut_after: int | None = None  # large files, after which a connection is cut
        self.interfere = False  # somebody else pushes between the look and the commit
        route = self._server.app.router
        route.add_post("/api/repos/create", self._create)
        route.add_post("/api/validate-yaml", self._validate)
        route.add_post("/api/models/{org}/{name}/preupload/main", self._preupload)
        route.add_post("/{org}/{name}.git/info/lfs/objects/batch", self._batch)
        route.add_put("/upload/{oid}", self._bytes)
        route.add_post("/api/models/{org}/{name}/commit/main", self._commit)

    async def _look(self, request: web.Request) -> web.Response:
        answer = await super()._look(request)
        if answer.status == 200 and answer.text:
            body = json.loads(answer.text)
            return web.json_response({**body, "private": body["id"] not in self.public})
        return answer

    def _writer(self, request: web.Request, org: str, step: str) -> web.Response | None:
        """Why not, if not."""
        shown = request.headers.get("Authorization")
        if step in self.refuse:
            return web.Response(status=self.refuse[step], headers={"X-Error-Message": f"no {step} today"})
        if shown not in {f"Bearer {WRITER}", f"Bearer {READER}"}:
            return web.Response(status=401)
        if shown != f"Bearer {WRITER}" or org not in self.organizations:
            return web.Response(status=403, headers={"X-Error-Message": f"no right to write to {org}"})
        return None

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = f"{body['organization']}/{body['name']}"
        if refusal := self._writer(request, body["organization"], "create"):
            return refusal
        if name in self.repositories:
            return web.json_response({"error": "exists", "url": f"{self.url}/{name}"}, status=409)
        self.repositories[name] = Repository({}, hashlib.sha1(name.encode()).hexdigest(), token=WRITER)
        if body["visibility"] == "public":
            self.public.add(name)
        return web.json_response({"url": f"{self.url}/{name}", "name": name})

    async def _validate(self, request: web.Request) -> web.Response:
        return web.json_response({"errors": [], "warnings": []})

    async def _preupload(self, request: web.Request) -> web.Response:
        if refusal := self._writer(request, request.match_info["org"], "preupload"):
            return refusal
        files = (await request.json())["files"]
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= LARGE or file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]
        return web.json_response({"files": modes})

    async def _batch(self, request: web.Request) -> web.Response:
        if refusal := self._writer(request, request.match_info["org"], "batch"):
            return refusal
        objects: list[dict[str, Any]] = []
        for wanted in (await request.json())["objects"]:
            known = wanted["oid"] in self.blobs
            actions = {} if known else {"actions": {"upload": {"href": f"{self.url}/upload/{wanted['oid']}"}}}
            objects.append(wanted | actions)
        return web.json_response({"transfer": "basic", "objects": objects})

    async def _bytes(self, request: web.Request) -> web.Response:
        if "bytes" in self.refuse:
            return web.Response(status=self.refuse["bytes"], headers={"X-Error-Message": "too large"})
        content = await request.read()
        oid = request.match_info["oid"]
        if self.cut_after is not None and len(self.sent) >= self.cut_after:
            return web.Response(status=400, headers={"X-Error-Message": "the connection was cut"})
        assert hashlib.sha256(content).hexdigest() == oid
        self.blobs[oid] = content
        self.sent.append(oid)
        return web.Response()

    async def _commit(self, request: web.Request) -> web.Response:
        org, name = request.match_info["org"], request.match_info["name"]
        if refusal := self._writer(request, org, "commit"):
            return refusal
        lines = [json.loads(line) for line in (await request.text()).splitlines()]
        repository = self.repositories[f"{org}/{name}"]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if self.interfere or header["parentCommit"] != repository.commit:
            return web.Response(status=412, headers={"X-Error-Message": "the parent commit is another"})
        self.messages.append(header["summary"])
        for line in lines:
            self._apply(repository, line["key"], line["value"])
        repository.commit = hashlib.sha1(f"{repository.commit}{sorted(repository.files)}".encode()).hexdigest()
        url = f"{self.url}/{org}/{name}/commit/{repository.commit}"
        return web.json_response({"commitUrl": url, "commitOid": repository.commit, "success": True})

    def _apply(self, repository: Repository, key: str, value: dict[str, Any]) -> None:
        if key == "file":
            repository.files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            repository.files[value["path"]] = self.blobs[value["oid"]]
        elif key == "deletedFile":
            del repository.files[value["path"]]
