"""The tree of errors: drawn as it is, with a code and a status each, and the same on both ends of the wire."""

from __future__ import annotations

import re
from typing import Final

import msgspec
import orjson
import pytest
from aiohttp import web

from gateway import errors
from gateway.errors import GatewayError, leaves
from gateway.host import wire
from gateway.web.errors import STATUSES, answer, body, of_http, status

DRAWN: Final = re.compile(r"^ {4}((?:│   )*)[├└]── (\w+)(?: +(.*))?$")
LEAVES: Final = sorted(leaves().items())
# what a client that reads statuses only may rely on
EXPECTED: Final = {
    "invalid_model_id": 400,
    "body_too_large": 413,
    "model_not_found": 404,
    "method_not_allowed": 405,
    "model_rejected": 409,
    "model_does_not_fit": 507,
    "overloaded": 429,
    "load_failed": 503,
    "deadline_exceeded": 504,
    "internal": 500,
}


def drawn() -> dict[str, tuple[str, str]]:
    """Name of a type -> the name above it, and what stands beside it in the drawing."""
    assert errors.__doc__ is not None
    above, found = ["GatewayError"], {}
    for line in errors.__doc__.splitlines():
        if match := DRAWN.match(line):
            level = len(match[1]) // 4 + 1
            del above[level:]
            found[match[2]] = (above[-1], match[3] or "")
            above.append(match[2])
    return found


def real(tree: type[GatewayError] = GatewayError) -> dict[str, tuple[str, str]]:
    found = {}
    for child in tree.__subclasses__():
        found[child.__name__] = (tree.__name__, child.code)
        found |= real(child)
    return found


def test_the_drawing_is_the_tree_in_the_same_order() -> None:
    assert list(drawn()) == list(real())
    assert {name: above for name, (above, _) in drawn().items()} == {name: above for name, (above, _) in real().items()}


def test_the_drawing_shows_every_code_beside_its_error() -> None:
    for name, (_, code) in real().items():
        if code:
            assert drawn()[name][1] == code
        else:
            assert drawn()[name][1] not in leaves()


def test_codes_are_unique_and_are_the_names_of_no_branch() -> None:
    codes = [code for _, code in real().values() if code]
    assert len(codes) == len(set(codes)) == len(leaves())
    for kind in leaves().values():
        assert not kind.__subclasses__()
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize(("code", "kind"), LEAVES)
def test_every_error_has_a_status(code: str, kind: type[GatewayError]) -> None:
    found = status(kind("it failed"))
    assert 400 <= found < 600
    assert found == EXPECTED.get(code, found)


def test_every_line_of_the_table_is_used() -> None:
    used = {next(kind for kind in leaf.__mro__ if kind in STATUSES) for leaf in leaves().values()}
    assert used == STATUSES.keys()


@pytest.mark.parametrize(("code", "kind"), LEAVES)
def test_a_429_and_a_503_always_say_when_to_come_back(code: str, kind: type[GatewayError]) -> None:
    response = answer(kind("it failed", retry_after=2.1))
    known = response.headers.get("Retry-After")
    assert known == ("3" if response.status in {429, 503} else None)
    unknown = answer(kind("it failed")).headers.get("Retry-After")
    assert unknown == ("1" if response.status in {429, 503} else None)


def test_an_answer_has_the_code_the_message_and_the_facts() -> None:
    response = answer(errors.ModelNotFound("no such model", model="m", closest=["a", "b"]))
    assert (response.status, response.content_type) == (404, "application/json")
    assert isinstance(response.body, bytes)
    assert orjson.loads(response.body) == {
        "error": {"code": "model_not_found", "message": "no such model", "model": "m", "closest": ["a", "b"]}
    }


@pytest.mark.parametrize(
    ("refusal", "code", "expected"),
    [
        (web.HTTPNotFound(), "route_not_found", 404),
        (web.HTTPMethodNotAllowed("PUT", ["GET", "POST"]), "method_not_allowed", 405),
        (web.HTTPRequestEntityTooLarge(1, 2), "body_too_large", 413),
        (web.HTTPBadRequest(), "invalid_body", 400),
    ],
)
def test_what_aiohttp_refuses_is_told_in_our_shape(refusal: web.HTTPException, code: str, expected: int) -> None:
    error = of_http(refusal)
    assert body(error)["error"]["code"] == code
    assert error.message
    assert status(error) == expected


@pytest.mark.parametrize(("code", "kind"), LEAVES)
def test_an_error_of_a_host_is_the_same_error_in_the_gateway(code: str, kind: type[GatewayError]) -> None:
    error = kind("it failed", retry_after=1.5, limit=3, names=["a"])
    sent = msgspec.msgpack.encode(wire.Failed.of(7, error))
    received = wire.reports.decode(sent)
    assert isinstance(received, wire.Failed)
    assert received.id == 7
    again = received.error()
    assert type(again) is kind
    assert (again.code, again.message, again.retry_after) == (code, "it failed", 1.5)
    assert again.details == {"limit": 3, "names": ["a"]}


def test_a_code_that_only_the_host_knows_is_an_internal_error() -> None:
    error = wire.Failed(1, "from_the_future", "it failed").error()
    assert isinstance(error, errors.Internal)
    assert error.message == "it failed"
