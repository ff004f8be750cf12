"""`GET /openapi.json`: every route, made of the route table, the handlers' promises and contracts, and the one table of
errors (https://spec.openapis.org/oas/v3.1.1). `GET /docs` shows it, and lets people try."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson
from aiohttp import web

from gateway import __version__
from gateway.errors import leaves
from gateway.web import contract
from gateway.web.auth import API_KEY
from gateway.web.contract import JSON, Contract
from gateway.web.errors import NATIVE, Dialect, status

routes: Final = web.RouteTableDef()
DOCUMENT: Final = web.AppKey("document", bytes)
PAGES: Final = Path(__file__).parent / "pages"
FILES: Final = {name: (PAGES / name).read_bytes() for name in ("docs.html", "docs.css", "docs.js")}
TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
GUARDS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
ABOUT: Final = (
    "A gateway that watches a directory tree of models, serves their vectors and answers from documents. A model's id "
    "may hold slashes; in a path they stand as they are, or as %2F. The header X-Request-Timeout says for how many "
    "seconds a client will wait."
)
KEYS: Final = {  # asked for once there are keys, and then either will do
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": API_KEY},
}
EVENT: Final = {  # each of a stream: https://spec.openapis.org/oas/v3.2.0#server-sent-event-streams
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string"}, "event": {"type": "string"}},
}
SCHEMAS: Final = "#/components/schemas/{name}"
CHOICES: Final = re.compile(r"\(\?P<(\w+)>(\w+(?:\|\w+)+)\)")
NUMBER: Final = re.compile(r"\(\?P<(\w+)>\[0-9\]\+\)")


@routes.get("/openapi.json")
async def description(request: web.Request) -> web.Response:
    """This description."""
    return web.Response(body=request.app[DOCUMENT], content_type=JSON)


@routes.get("/docs")
@routes.get("/docs/docs.css")
@routes.get("/docs/docs.js")
@contract.says(answer=str, media=("text/html", "text/css", "text/javascript"))
async def page(request: web.Request) -> web.Response:
    """A page that shows this description and lets people try; it loads nothing from elsewhere."""
    name = request.path.partition("/docs/")[2] or "docs.html"
    kind = TYPES[name.rpartition(".")[2]]
    return web.Response(body=FILES[name], content_type=kind, charset="utf-8", headers=GUARDS)


class Operation(msgspec.Struct, frozen=True):
    """One method of one path, as a client writes it."""

    path: str
    method: str
    handler: Any
    numbers: frozenset[str] = frozenset()  # parameters of the path that are numbers

    @property
    def contract(self) -> Contract:
        return contract.of(self.handler)

    @property
    def protocol(self) -> str:
        return str(self.handler.__module__.rpartition(".")[2])


def operations(table: Iterable[web.AbstractRoute]) -> Iterator[Operation]:
    """Of every route; those that choose among verbs are told apart."""
    for route in table:
        if route.resource is None or route.method == "HEAD":
            continue
        known = route.resource.get_info()
        pattern = known["pattern"].pattern if "pattern" in known else ""
        numbers = frozenset(NUMBER.findall(pattern))
        choices = CHOICES.search(pattern)
        for choice in choices[2].split("|") if choices else [""]:
            path = route.resource.canonical
            path = path.replace(f"{{{choices[1]}}}", choice) if choices else path
            yield Operation(path, route.method.lower(), route.handler, numbers)


def document(table: Iterable[web.AbstractRoute], dialects: Sequence[Dialect]) -> dict[str, Any]:
    """The whole description. `dialects` as the middleware has them."""
    found = sorted(operations(table), key=lambda each: (each.path, each.method))
    types = [each.contract.body for each in found] + [each.contract.answer for each in found]
    spoken = [*dialects, NATIVE]
    types = [kind for kind in types if kind is not None] + [dialect.shape for dialect in spoken]
    schemas, components = msgspec.json.schema_components(types, ref_template=SCHEMAS)
    known = _Schemas(types, schemas)
    paths: dict[str, dict[str, Any]] = {}
    for each in found:
        dialect = next(dialect for dialect in spoken if dialect.paths.match(each.path))
        paths.setdefault(each.path, {})[each.method] = _operation(each, known, dialect)
    responses = {name: answer for dialect in spoken for name, answer in _refusals(dialect, known).items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Dropgate", "version": __version__, "description": ABOUT},
        "tags": [{"name": name, "description": promise} for name, promise in sorted(_promises(found).items())],
        "paths": paths,
        "security": [{}, *({name: []} for name in KEYS)],
        "components": {"schemas": components, "responses": responses, "securitySchemes": KEYS},
    }


class _Schemas:
    """The schema of a type, as a reference where it has a name."""

    def __init__(self, types: Sequence[Any], schemas: Sequence[dict[str, Any]]) -> None:
        self._found = list(zip(types, schemas, strict=True))

    def of(self, kind: Any) -> dict[str, Any]:
        return next(schema for known, schema in self._found if known == kind)


def _operation(each: Operation, known: _Schemas, dialect: Dialect) -> dict[str, Any]:
    said = each.contract
    answer: dict[str, Any] = {"description": "Done."}
    if said.answer is not None:
        answer["content"] = {media: {"schema": _form(said, media, known)} for media in said.media}
    found: dict[str, Any] = {
        "operationId": f"{each.method}{re.sub(r'[^A-Za-z0-9]+', '_', each.path)}".rstrip("_"),
        "tags": [each.protocol],
        "summary": " ".join((each.handler.__doc__ or "").split()),
        "responses": {str(code): answer for code in (said.status, *said.also)} | _references(dialect),
    }
    if parameters := [*_parameters(each), *_query(said)]:
        found["parameters"] = parameters
    if said.body is not None:
        content = {"schema": known.of(said.body)} | ({} if said.example is None else {"example": said.example})
        found["requestBody"] = {"required": not said.optional, "content": {JSON: content}}
    return found


def _form(said: Contract, media: str, known: _Schemas) -> dict[str, Any]:
    match media:
        case contract.JSON:
            return known.of(said.answer)
        case contract.EVENTS:
            return EVENT
        case contract.OCTETS:
            return {"type": "string", "format": "binary"}
    return {"type": "string"}


def _parameters(each: Operation) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", each.path):
        schema = {"type": "string", "minLength": 1} | ({"pattern": "^[0-9]+$"} if name in each.numbers else {})
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query(said: Contract) -> Iterator[dict[str, Any]]:
    for name, meaning in said.query.items():
        yield {"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}


def _codes(dialect: Dialect) -> dict[int, list[str]]:
    """By status, the codes of our errors that a dialect says with it."""
    found: dict[int, list[str]] = {}
    for code, kind in sorted(leaves().items()):
        found.setdefault(status(kind(""), dialect), []).append(code)
    return dict(sorted(found.items()))


def _references(dialect: Dialect) -> dict[str, Any]:
    return {str(code): {"$ref": f"#/components/responses/{dialect.name}{code}"} for code in _codes(dialect)}


def _refusals(dialect: Dialect, known: _Schemas) -> dict[str, Any]:
    again = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return {
        f"{dialect.name}{code}": {
            "description": ", ".join(codes),
            "headers": {"X-Gateway-Error": {"schema": {"type": "string", "enum": codes}}}
            | (again if code in {429, 503} else {}),
            "content": {JSON: {"schema": known.of(dialect.shape)}},
        }
        for code, codes in _codes(dialect).items()
    }


def _promises(found: Iterable[Operation]) -> dict[str, str]:
    """By protocol, the first paragraph of its module."""
    texts = {each.protocol: sys.modules[each.handler.__module__].__doc__ or "" for each in found}
    return {protocol: " ".join(text.partition("\n\n")[0].split()) for protocol, text in texts.items()}


def encoded(table: Iterable[web.AbstractRoute], dialects: Sequence[Dialect]) -> bytes:
    return orjson.dumps(document(table, dialects))
