"""An API server that keeps objects, for the real `kubectl apply`, `diff`, `create`, `delete` and `rollout status`.

It does what a cluster's does with what a client sends: it refuses unknown and missing fields by Kubernetes' own
schemas (`fieldValidation=Strict`), names that are none, objects in a namespace that is not there, and changes of what
cannot be changed; it keeps nothing of a dry run, and merges strategic patches. Nothing is behind it: hardly a default
is filled in, no controller makes pods, no volume is bound. `settle` says that a controller has done its part.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import yaml
from aiohttp import web

from tests.cluster import protobuf
from tests.cluster.manifests import Object, Wrong, validate
from tests.cluster.merging import merged, merged_plainly
from tests.kube import DEADLINE, Finished, kubeconfig


class Resource(NamedTuple):
    """A kind of objects, and where they are found."""

    group: str  # apps/v1; v1 for the first of them
    name: str  # statefulsets
    kind: str
    namespaced: bool = True

    @property
    def root(self) -> str:
        return f"/api/{self.group}" if self.group == "v1" else f"/apis/{self.group}"


RESOURCES: Final = (
    Resource("v1", "namespaces", "Namespace", namespaced=False),
    Resource("v1", "configmaps", "ConfigMap"),
    Resource("v1", "secrets", "Secret"),
    Resource("v1", "services", "Service"),
    Resource("v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    Resource("apps/v1", "statefulsets", "StatefulSet"),
    Resource("apps/v1", "deployments", "Deployment"),
    Resource("batch/v1", "jobs", "Job"),
    Resource("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
    Resource("networking.k8s.io/v1", "ingresses", "Ingress"),
    Resource("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    Resource("monitoring.coreos.com/v1", "servicemonitors", "ServiceMonitor"),
    Resource("monitoring.coreos.com/v1", "prometheusrules", "PrometheusRule"),
    Resource("keda.sh/v1alpha1", "scaledobjects", "ScaledObject"),
)
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
CHANGEABLE: Final = {  # of a spec; what is not here, of these kinds, never changes
    "StatefulSet": {
        *("replicas", "ordinals", "template", "updateStrategy"),
        *("persistentVolumeClaimRetentionPolicy", "minReadySeconds"),
    },
    "PersistentVolumeClaim": {"resources"},
    "Job": {"parallelism", "suspend", "ttlSecondsAfterFinished", "backoffLimit", "activeDeadlineSeconds"},
}


class Refused(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        self.status |= {"message": message, "reason": reason, "code": status}
        self.code = status


@dataclass(frozen=True)
class Place:
    resource: Resource
    namespace: str
    name: str


class ApiServer:
    """`async with ApiServer(folder)`; `folder` takes the kubeconfig. `objects` is what it keeps."""

    def __init__(self, folder: Path) -> None:
        self.kubeconfig = folder / "kubeconfig"
        self.objects: dict[Place, Object] = {}
        self._versions = itertools.count(1)
        self._changed = asyncio.Condition()
        application = web.Application(middlewares=[_refusals])
        application.add_routes([web.get(path, _document) for path in DOCUMENTS])
        for resource in RESOURCES:
            path = resource.root + ("/namespaces/{namespace}" if resource.namespaced else "") + f"/{resource.name}"
            handlers = {"GET": self._get, "POST": self._create, "PATCH": self._patch, "DELETE": self._delete}
            for method, handler in handlers.items():
                application.router.add_route(
                    method, path + ("" if method == "POST" else "/{name}"), _of(resource, handler)
                )
            application.router.add_get(path, _of(resource, self._list))
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.kubeconfig.write_text(kubeconfig(f"http://{host}:{port}"))
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._runner.cleanup()

    async def kubectl(self, *arguments: str | Path) -> Finished:
        return await self.run("kubectl", *arguments)

    async def run(self, *command: str | Path, **options: Any) -> Finished:
        """A command that speaks to this server, such as a script that calls kubectl."""
        environment = {**os.environ, **options.pop("env", {}), "KUBECONFIG": str(self.kubeconfig)}
        process = await asyncio.create_subprocess_exec(
            *map(str, command), env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # fmt: skip
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Finished(process.returncode, out.decode(), err.decode())

    def kept(self, kind: str, name: str = "") -> list[Object]:
        return [
            each for place, each in self.objects.items() if place.resource.kind == kind and name in ("", place.name)
        ]

    async def settle(self) -> None:
        """As if a controller had made what every StatefulSet asks for."""
        for each in self.kept("StatefulSet"):
            count = each["spec"].get("replicas", 1)
            replicas = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas", "availableReplicas"), count)
            generation = each["metadata"]["generation"]
            each["status"] = {
                **replicas,
                "observedGeneration": generation,
                "updateRevision": "1",
                "currentRevision": "1",
            }
        async with self._changed:
            self._changed.notify_all()

    # what a client asks

    async def _get(self, place: Place, request: web.Request) -> web.Response:
        return web.json_response(self._found(place))

    async def _list(self, place: Place, request: web.Request) -> web.StreamResponse:
        wanted = dict(pair.split("=", 1) for pair in request.query.get("fieldSelector", "").split(",") if "=" in pair)
        if "watch" in request.query:
            return await self._watch(place, request, wanted)
        document = {"kind": f"{place.resource.kind}List", "apiVersion": place.resource.group}
        items = list(self._selected(place, wanted))
        return web.json_response({**document, "metadata": {"resourceVersion": "1"}, "items": items})

    async def _watch(self, place: Place, request: web.Request, wanted: Mapping[str, str]) -> web.StreamResponse:
        """Each object anew at every change, until the client has seen enough."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        async with self._changed:
            while True:
                for each in self._selected(place, wanted):
                    await response.write(json.dumps({"type": "MODIFIED", "object": each}).encode() + b"\n")
                await self._changed.wait()

    def _selected(self, place: Place, wanted: Mapping[str, str]) -> Iterator[Object]:
        for at, each in self.objects.items():
            there = at.resource == place.resource and at.namespace == place.namespace
            if there and wanted.get("metadata.name", at.name) == at.name:
                yield each

    async def _create(self, place: Place, request: web.Request) -> web.Response:
        body = await request.read()
        content = protobuf.read(body) if request.content_type == PROTOBUF else json.loads(body)
        place = Place(place.resource, place.namespace, content.get("metadata", {}).get("name", ""))
        if place in self.objects:
            raise Refused(409, "AlreadyExists", f'{place.resource.name} "{place.name}" already exists')
        return web.json_response(await self._keep(place, content, request), status=201)

    async def _patch(self, place: Place, request: web.Request) -> web.Response:
        kind = request.content_type
        text = await request.text()
        if kind == "application/apply-patch+yaml":
            old = self.objects.get(place)
            content = merged_plainly(old or {}, yaml.safe_load(text))
            return web.json_response(await self._keep(place, content, request), status=200 if old else 201)
        merge = {"application/strategic-merge-patch+json": merged, "application/merge-patch+json": merged_plainly}[kind]
        return web.json_response(await self._keep(place, merge(self._found(place), json.loads(text)), request))

    async def _delete(self, place: Place, request: web.Request) -> web.Response:
        gone = self._found(place)
        if "All" not in request.query.getall("dryRun", []):
            del self.objects[place]
        return web.json_response(gone)

    def _found(self, place: Place) -> Object:
        if place not in self.objects:
            raise Refused(404, "NotFound", f'{place.resource.name} "{place.name}" not found')
        return self.objects[place]

    async def _keep(self, place: Place, content: Object, request: web.Request) -> Object:
        _demand_valid(place, content, request.query.get("fieldValidation", ""))
        if place.namespace and Place(RESOURCES[0], "", place.namespace) not in self.objects:
            raise Refused(404, "NotFound", f'namespaces "{place.namespace}" not found')
        old = self.objects.get(place)
        if old is not None:
            _demand_changeable(place, old, content)
        kept = copy.deepcopy(content)
        if place.resource.kind == "StatefulSet":
            kept["spec"].setdefault("updateStrategy", {"type": "RollingUpdate"})  # `rollout` looks at it
        metadata = kept["metadata"]
        before = old["metadata"] if old else {"uid": f"uid-{place.resource.name}-{place.name}", "generation": 0}
        changed = old is None or old.get("spec") != kept.get("spec")
        metadata["uid"] = before["uid"]
        metadata["generation"] = before["generation"] + (1 if changed else 0)
        metadata["creationTimestamp"] = before.get("creationTimestamp") or "2026-01-01T00:00:00Z"
        if place.namespace:
            metadata["namespace"] = place.namespace
        metadata["resourceVersion"] = before.get("resourceVersion", "")
        if kept == old:
            return old
        metadata["resourceVersion"] = str(next(self._versions))
        if "All" not in request.query.getall("dryRun", []):
            self.objects[place] = kept
            async with self._changed:
                self._changed.notify_all()
        return kept


def _demand_valid(place: Place, content: Object, how: str) -> None:
    if not NAME.fullmatch(place.name):
        raise Refused(422, "Invalid", f'{place.resource.kind} "{place.name}" is invalid: metadata.name')
    if (content.get("apiVersion"), content.get("kind")) != (place.resource.group, place.resource.kind):
        raise Refused(400, "BadRequest", f"{content.get('kind')} is not {place.resource.kind}")
    if how == "Strict":
        metadata = {key: value for key, value in content["metadata"].items() if key in {"name", "labels"}}
        spoken = {key: value for key, value in content.items() if key != "status"}  # the rest is kubectl's and ours
        try:
            validate({**spoken, "metadata": metadata})
        except Wrong as error:
            raise Refused(400, "BadRequest", f"strict decoding error: {error}") from None


def _demand_changeable(place: Place, old: Object, new: Object) -> None:
    changeable = CHANGEABLE.get(place.resource.kind)
    if changeable is None:
        return
    keys = old["spec"].keys() | new["spec"].keys()
    wrong = sorted(key for key in keys - changeable if old["spec"].get(key) != new["spec"].get(key))
    if wrong:
        what = f'{place.resource.kind} "{place.name}" is invalid: spec: Forbidden: updates to'
        raise Refused(422, "Invalid", f"{what} {', '.join(wrong)} are forbidden")


def _of(resource: Resource, handler: Any) -> Any:
    async def handle(request: web.Request) -> web.StreamResponse:
        at = Place(resource, request.match_info.get("namespace", ""), request.match_info.get("name", ""))
        answer: web.StreamResponse = await handler(at, request)
        return answer

    return handle


@web.middleware
async def _refusals(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        answer: web.StreamResponse = await handler(request)
    except Refused as refused:
        return web.json_response(refused.status, status=refused.code)
    return answer


# What it says of itself: the groups, their kinds, and that it knows dry runs and strict fields.


def _documents() -> Iterator[tuple[str, Object]]:
    groups = sorted({each.group for each in RESOURCES} - {"v1"})
    yield "/version", {"major": "1", "minor": "32", "gitVersion": "v1.32.0"}
    yield "/api", {"kind": "APIVersions", "versions": ["v1"]}
    named = [{"groupVersion": group, "version": group.split("/")[1]} for group in groups]
    found = [
        {"name": group.split("/")[0], "versions": [version], "preferredVersion": version}
        for group, version in zip(groups, named, strict=True)
    ]
    yield "/apis", {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}
    roots = {}
    for group in ("v1", *groups):
        kinds = [each for each in RESOURCES if each.group == group]
        root = kinds[0].root
        yield (
            root,
            {"kind": "APIResourceList", "groupVersion": group, "resources": [_described(each) for each in kinds]},
        )
        roots[root[1:]] = {"serverRelativeURL": f"/openapi/v3{root}"}
        yield (
            f"/openapi/v3{root}",
            {"openapi": "3.0.0", "info": {"title": group, "version": "1"}, "paths": _paths(kinds)},
        )
    yield "/openapi/v3", {"paths": roots}


def _described(each: Resource) -> Object:
    verbs = ["create", "delete", "get", "list", "patch", "watch"]
    return {"name": each.name, "singularName": each.kind.lower(), "namespaced": each.namespaced, "kind": each.kind} | {
        "verbs": verbs
    }


def _paths(kinds: list[Resource]) -> Object:
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in ("dryRun", "fieldValidation")]
    found = {}
    for each in kinds:
        group, _, version = each.group.rpartition("/")
        kind = {"group": group, "version": version, "kind": each.kind}
        patch = {"parameters": parameters, "x-kubernetes-group-version-kind": kind, "responses": {}}
        found[f"{each.root}/namespaces/{{namespace}}/{each.name}/{{name}}"] = {"patch": patch}
    return found


DOCUMENTS: Final = dict(_documents())


async def _document(request: web.Request) -> web.Response:
    return web.json_response(DOCUMENTS[request.path])
