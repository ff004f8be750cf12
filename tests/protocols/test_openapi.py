"""The description at `/openapi.json` is held to routes, bodies, errors and answers; and the page shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import jsonschema_rs
import msgspec
import pytest
from aiohttp import web

from gateway import app, errors
from gateway.errors import leaves
from gateway.web import contract, openapi
from gateway.web.errors import NATIVE, Dialect, status
from tests.running import RunningGateway
from tests.test_docs import routes as promised

DIALECTS = [*app.DIALECTS, NATIVE]


def table() -> web.UrlDispatcher:
    made = web.Application()
    for module in app.PROTOCOLS:
        made.add_routes(module.routes)
    return made.router


ROUTER = table()
DOCUMENT: dict[str, Any] = json.loads(openapi.encoded(ROUTER.routes(), app.DIALECTS))
OPERATIONS = list(openapi.operations(ROUTER.routes()))


ASKED: Final = (
    "/ask",
    "/ask/stream",
    "/api/chat",
    "/v1/chat/completions",
    "/v1/completions",
)  # tests/ask and tests/e2e have them


def described() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(found := part.get("$ref"), str):
            yield found
        for each in part.values():
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


def test_every_route_is_described_and_nothing_else() -> None:
    assert {(path, method, each["summary"]) for path, method, each in described()} == set(promised())


def test_every_operation_has_a_name_of_its_own_and_says_which_parts_of_its_path_vary() -> None:
    names = [each["operationId"] for _, _, each in described()]
    assert len(names) == len(set(names))
    for path, _, each in described():
        told = [found["name"] for found in each.get("parameters", ()) if found["in"] == "path"]
        assert told == re.findall(r"\{(\w+)\}", path)


def test_every_reference_leads_somewhere() -> None:
    for found in set(references(DOCUMENT)):
        part: Any = DOCUMENT
        for step in found.removeprefix("#/").split("/"):
            part = part[step]


def test_the_types_of_a_schema_have_names_of_their_own() -> None:
    kinds = [each.contract.body for each in OPERATIONS] + [each.contract.answer for each in OPERATIONS]
    names: dict[str, type] = {}
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            assert names.setdefault(kind.__name__, kind) is kind


@pytest.mark.parametrize("each", OPERATIONS, ids=lambda each: f"{each.method} {each.path}")
def test_every_example_is_a_body_that_is_taken(each: openapi.Operation) -> None:
    said = each.contract
    if said.body is None:
        assert said.example is None
    else:
        assert said.example is not None
        msgspec.json.decode(json.dumps(said.example), type=said.body)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_error_is_listed_with_its_status_in_every_dialect(dialect: Dialect) -> None:
    for code, kind in leaves().items():
        answer = DOCUMENT["components"]["responses"][f"{dialect.name}{status(kind(''), dialect)}"]
        assert code in answer["description"].split(", ")
        assert code in answer["headers"]["X-Gateway-Error"]["schema"]["enum"]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("kind", list(leaves().values()), ids=list(leaves()))
def test_every_error_has_the_shape_that_is_described(dialect: Dialect, kind: type[errors.GatewayError]) -> None:
    error = kind("it failed", retry_after=1.0, index=3, field="inputs[3]")
    document = dialect.body(error, status(error, dialect))
    made = msgspec.convert(document, dialect.shape)
    assert set(msgspec.to_builtins(made)) == set(document)


def test_a_route_answers_its_errors_in_the_words_that_are_described() -> None:
    for path, _, each in described():
        dialect = next(found for found in DIALECTS if found.paths.match(path))
        told = {answer["$ref"] for answer in each["responses"].values() if "$ref" in answer}
        assert {found.rpartition("/")[2].rstrip("0123456789") for found in told} == {dialect.name}


def test_both_ways_to_send_a_key_are_described_and_neither_is_always_needed() -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert {scheme.get("name", scheme.get("scheme")) for scheme in schemes.values()} == {"bearer", "X-API-Key"}
    assert DOCUMENT["security"] == [{}, {"bearer": []}, {"key": []}]


def test_a_route_that_says_nothing_is_described_too() -> None:
    async def silent(request: web.Request) -> web.Response:
        """Says nothing."""
        return web.Response()

    made = web.Application()
    made.router.add_get("/silent", silent)
    assert contract.of(silent) == contract.Contract()
    found = openapi.document([route for route in made.router.routes() if route.method == "GET"], ())
    assert found["paths"]["/silent"]["get"]["summary"] == "Says nothing."


@pytest.mark.asyncio(loop_scope="session")
async def test_the_gateway_serves_its_own_description(gateway: RunningGateway) -> None:
    async with gateway.session.get("/openapi.json") as reply:
        assert (reply.status, reply.content_type) == (200, "application/json")
        assert await reply.json() == DOCUMENT


async def papers(gateway: RunningGateway) -> str:
    """The id of the one document of a knowledge base."""
    body = {"documents": [{"name": "notes.md", "content": "The beam was stable."}], "embedding_model": "rooted"}
    async with gateway.session.post("/kb/papers/documents", json=body) as reply:
        assert reply.status == 200, await reply.text()
        return str((await reply.json())["documents"][0]["id"])


@pytest.mark.asyncio(loop_scope="session")
async def test_what_is_answered_is_as_it_is_described(gateway: RunningGateway) -> None:
    """Every route whose body has an example, and every one that needs no body, with a model that is there."""
    seen = 0
    for path, method, each in described():
        if (
            "/pull" in path
            or path in {"/events", "/console/live", "/models/{model}/rollback", "/runs/{run}", *ASKED}
            or path.endswith(("rerank", "/{version}"))
        ):
            continue
        filled = path.replace("{model}", "rooted").replace("{version}", "1").replace("{file}", "app.js")
        filled = filled.replace("{alias}", "prod/search")  # which leads there already
        if path.startswith("/kb"):  # what is asked of it may be its end
            filled = filled.replace("{name}", "papers").replace("{document}", await papers(gateway))
        said = each.get("requestBody", {}).get("content", {}).get("application/json")
        body = said["example"] | ({"model": "rooted"} if "model" in said["example"] else {}) if said else None
        async with gateway.session.request(method, filled, json=body) as reply:
            text = await reply.text()
            answer = each["responses"].get(str(reply.status))
            assert answer is not None, (method, path, reply.status, text)
            answer = (
                DOCUMENT["components"]["responses"][answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
            )
            assert ("content" in answer) == bool(text)
            if reply.content_type in answer.get("content", {}) and reply.content_type == "application/json":
                schema = answer["content"]["application/json"]["schema"]
                jsonschema_rs.validate({**schema, "components": DOCUMENT["components"]}, json.loads(text))
            assert (
                reply.status == 200
                or "ready" in path
                or path == "/kb/{name}/reindex"
                or path.endswith(("predict", "embed_sparse"))
            )
            seen += 1
    assert seen > 40


@pytest.mark.asyncio(loop_scope="session")
async def test_the_page_loads_nothing_from_elsewhere(gateway: RunningGateway) -> None:
    for path, kind in (("/docs", "text/html"), ("/docs/docs.css", "text/css"), ("/docs/docs.js", "text/javascript")):
        async with gateway.session.get(path) as reply:
            assert (reply.status, reply.content_type) == (200, kind)
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
            text = await reply.text()
        assert re.findall(r"https?://", text) == []
        assert " style=" not in text
        assert "innerHTML" not in text
    for name in ("docs.css", "docs.js"):
        assert f"docs/{name}" in openapi.FILES["docs.html"].decode()
