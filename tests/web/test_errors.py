"""What becomes of an error at the edge: one table, one middleware, one line, and never a stack trace for a client."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.test_utils import TestClient

from gateway import errors, events
from gateway.web.errors import Complaints, body, complaints, middleware, status

Client = TestClient[web.Request, web.Application]


class Edge:
    """A server with one route that raises what it is given; `told` has the requests' events."""

    def __init__(self) -> None:
        self.failure: BaseException = RuntimeError("no failure was given")
        self.told: list[events.RequestFinished] = []
        tell = events.Events()
        tell.subscribe(self.hear)
        self.app = web.Application(middlewares=[middleware(tell)])
        self.app.router.add_get("/fail/{what}", self.fail)

    async def fail(self, request: web.Request) -> web.Response:
        raise self.failure

    def hear(self, event: events.Event) -> None:
        assert isinstance(event, events.RequestFinished)
        self.told.append(event)


@pytest.fixture
def edge() -> Edge:
    return Edge()


@pytest.fixture
async def client(edge: Edge, aiohttp_client: Callable[[web.Application], Awaitable[Client]]) -> Client:
    return await aiohttp_client(edge.app)


async def test_a_bug_is_a_500_with_an_id_and_its_traceback_stays_inside(edge: Edge, client: Client) -> None:
    edge.failure = KeyError("secret-detail")
    async with client.get("/fail/x", headers={"X-Request-Id": "mine"}) as answer:
        assert answer.status == 500
        assert answer.headers["X-Request-Id"] == "mine"
        error = (await answer.json())["error"]
        assert error.keys() == {"code", "message"}
        assert error["code"] == "internal"
        assert "mine" in error["message"]
        text = await answer.text()
    assert "secret-detail" not in text
    assert "Traceback" not in text
    (line,) = edge.told
    assert (line.request_id, line.status, line.code, line.route) == ("mine", 500, "internal", "/fail/{what}")
    assert line.traceback is not None
    assert "secret-detail" in line.traceback
    assert "in fail" in line.traceback


@pytest.mark.parametrize("kind", list(errors.leaves().values()), ids=list(errors.leaves()))
async def test_every_error_is_answered_in_the_one_shape(
    edge: Edge, client: Client, kind: type[errors.GatewayError]
) -> None:
    edge.failure = kind("what is wrong", fact=3)
    async with client.get("/fail/x") as answer:
        assert answer.status == status(edge.failure)
        assert await answer.json() == {"error": {"code": kind.code, "message": "what is wrong", "fact": 3}}
        assert ("Retry-After" in answer.headers) == (answer.status in {429, 503})
    assert [(line.status, line.code, line.traceback) for line in edge.told] == [(answer.status, kind.code, None)]


@pytest.mark.parametrize(("seconds", "header"), [(0.2, "1"), (1.0, "1"), (1.2, "2"), (59.5, "60"), (None, "1")])
async def test_retry_after_is_whole_seconds_and_never_too_early(
    edge: Edge, client: Client, seconds: float | None, header: str
) -> None:
    edge.failure = errors.Overloaded("too much", retry_after=seconds)
    async with client.get("/fail/x") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, header)


@pytest.mark.parametrize("given", ["", "x" * 129, "caf\u00e9"])
async def test_an_id_that_no_log_should_have_is_replaced(edge: Edge, client: Client, given: str) -> None:
    edge.failure = errors.InvalidBody("wrong")
    async with client.get("/fail/x", headers={"X-Request-Id": given}) as answer:
        made = answer.headers["X-Request-Id"]
    assert made != given
    assert len(made) == 32
    assert edge.told[0].request_id == made


async def test_refusals_of_the_server_itself_have_our_shape(edge: Edge, client: Client) -> None:
    for failure, code, number in [
        (web.HTTPRequestEntityTooLarge(10, 20), "body_too_large", 413),
        (web.HTTPUnsupportedMediaType(), "invalid_body", 400),
        (web.RequestPayloadError("400, message:\n  Can not decode content-encoding: gzip"), "invalid_body", 400),
    ]:
        edge.failure = failure
        async with client.get("/fail/x") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (number, code)
    async with client.get("/nothing") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "route_not_found")
    async with client.post("/fail/x") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (405, "method_not_allowed")
    assert [line.route for line in edge.told[-2:]] == ["unmatched", "unmatched"]
    assert not [line for line in edge.told if line.traceback]


def test_facts_that_are_no_json_are_told_as_text() -> None:
    from gateway.web.errors import answer

    made = answer(errors.ModelNotFound("gone", path=ValueError("odd")))
    assert made.text == '{"error":{"code":"model_not_found","message":"gone","path":"odd"}}'
    assert body(errors.ModelNotFound("gone"))["error"] == {"code": "model_not_found", "message": "gone"}


class Noted:
    """Notices, as the server's logger makes them."""

    def __init__(self) -> None:
        self.notices: list[tuple[str, str]] = []
        tell = events.Events()
        tell.subscribe(self.hear)
        self.logger = complaints(tell)

    def hear(self, event: events.Event) -> None:
        assert isinstance(event, events.Notice)
        self.notices.append((event.code, event.message))


def failed(error: Exception) -> Exception:
    with pytest.raises(type(error)) as raised:
        raise error
    return raised.value


def test_a_connection_that_speaks_no_http_is_one_line() -> None:
    noted = Noted()
    noted.logger.error("Error handling request", exc_info=failed(BadHttpMessage("Bad\n  chunk:\n  b'zz'")))
    assert noted.notices == [("http_broken", "400, message: Bad chunk: b'zz'")]


def test_a_bug_outside_the_middleware_is_told_with_its_traceback() -> None:
    noted = Noted()
    noted.logger.error("Unhandled exception", exc_info=failed(KeyError("x")))
    ((code, message),) = noted.notices
    assert code == "http_failed"
    assert "Traceback" in message
    assert "KeyError" in message


def test_what_a_requests_own_line_has_told_is_not_told_twice() -> None:
    noted = Noted()
    noted.logger.error("Unhandled exception", exc_info=failed(web.RequestPayloadError("bad gzip")))
    noted.logger.info("no news")
    assert noted.notices == []
    assert isinstance(noted.logger.handlers[0], Complaints)
    assert noted.logger not in logging.Logger.manager.loggerDict.values()
