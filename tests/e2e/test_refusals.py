"""What clients get wrong, over HTTP: each is told its status, a stable code, and what would help; none costs others."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests import making
from tests.running import DEADLINE, RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = "finetuned/physics"
MAX_BODY = 4_000_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    base = tmp_path_factory.mktemp("refusals")
    physics = making.encoder(base / "models" / "finetuned" / "physics", prompts={"query": "query: "})
    shutil.copytree(physics, base / "models" / "finetuned" / "broken")
    weights = base / "models" / "finetuned" / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    shutil.copytree(physics, base / "models" / "finetuned" / "arriving")
    (base / "models" / "finetuned" / "arriving" / "model.safetensors.partial").write_bytes(b"half")
    async with RunningGateway(base / "models", base / "state", "--device=cpu", f"--max-body-bytes={MAX_BODY}") as it:
        await it.wait_for("huggingface:finetuned/broken", "rejected")
        yield it


async def ask(gateway: RunningGateway, body: Any = None, **options: Any) -> tuple[int, dict[str, Any]]:
    """POST /embed, with a JSON body or raw `data`."""
    request = {"data": body} if isinstance(body, bytes) else {"json": {"inputs": "x", "model": MODEL} | (body or {})}
    async with gateway.session.post("/embed", **request, **options) as answer:
        return answer.status, await answer.json()


async def refused(gateway: RunningGateway, status: int, code: str, body: Any = None, **options: Any) -> dict[str, Any]:
    """The error, which must have this status and code, and a message that a person can read."""
    found, answer = await ask(gateway, body, **options)
    assert (found, answer["error"]["code"]) == (status, code), answer
    assert answer["error"]["message"]
    assert "Traceback" not in json.dumps(answer)
    return answer["error"]  # type: ignore[no-any-return]  # JSON


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b'{"inputs": ["a"', b"\xff\xfe", b'{"inputs": "\xff"}', b'{"inputs": NaN}', b'{"inputs": "\\ud800"}'],
)
async def test_a_body_that_is_no_json_is_said_to_be_none(gateway: RunningGateway, raw: bytes) -> None:
    error = await refused(gateway, 400, "invalid_json", raw)
    assert "not JSON" in error["message"]


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"text"', b"3", b"[" * 100_000])
async def test_a_body_that_is_no_object_is_said_to_be_none(gateway: RunningGateway, raw: bytes) -> None:
    error = await refused(gateway, 400, "invalid_body", raw)
    assert "object" in error["message"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"inputs": 3}, "inputs"),
        ({"inputs": None}, "inputs"),
        ({"inputs": {"text": "a"}}, "inputs"),
        ({"inputs": ["a", 3]}, "inputs"),
        ({"inputs": [["a"]]}, "inputs[0][0]"),
        ({"texts": 3}, "texts"),
        ({"model": 3}, "model"),
        ({"model": ["a"]}, "model"),
        ({"normalize": "yes"}, "normalize"),
        ({"truncate": 1}, "truncate"),
        ({"prompt": 1}, "prompt"),
        ({"prompt_name": 1}, "prompt_name"),
        ({"dimensions": 1.5}, "dimensions"),
        ({"dimensions": "8"}, "dimensions"),
        ({"dimensions": 10**30}, "dimensions"),
        ({"dimensions": -(10**30)}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"encoding_format": 1}, "encoding_format"),
    ],
)
async def test_a_field_of_another_type_is_named(gateway: RunningGateway, wrong: dict[str, Any], field: str) -> None:
    error = await refused(gateway, 400, "invalid_body", wrong)
    assert error["field"] == field


async def test_a_body_without_inputs_says_what_it_lacks(gateway: RunningGateway) -> None:
    error = await refused(gateway, 400, "invalid_body", json.dumps({"model": MODEL}).encode())
    assert error["field"] == "inputs"
    assert "`inputs`" in error["message"]


async def test_half_of_a_character_is_an_error_of_the_request(gateway: RunningGateway) -> None:
    for half in (rb"\udc00", rb"a\ud800b", rb"\ud800\ud800"):
        raw = b'{"model": "%s", "inputs": ["%s"]}' % (MODEL.encode(), half)
        status, answer = await ask(gateway, raw)
        assert status == 400, answer
        assert answer["error"]["code"] in {"invalid_json", "invalid_input"}


@pytest.mark.parametrize(("dimensions", "model"), [(0, MODEL), (-1, MODEL), (33, MODEL), (2**62, MODEL)])
async def test_dimensions_that_the_model_has_not_are_refused(
    gateway: RunningGateway, dimensions: int, model: str
) -> None:
    error = await refused(gateway, 400, "invalid_dimensions", {"dimensions": dimensions, "model": model})
    assert error["dim"] == 32
    assert "between 1 and 32" in error["message"]


async def test_an_unknown_prompt_is_told_the_known_ones(gateway: RunningGateway) -> None:
    error = await refused(gateway, 400, "unknown_prompt", {"prompt_name": "qeury"})
    assert error["prompts"] == ["query"]


async def test_a_prompt_and_its_name_together_are_refused(gateway: RunningGateway) -> None:
    error = await refused(gateway, 400, "invalid_body", {"prompt_name": "query", "prompt": "query: "})
    assert "not both" in error["message"]


async def test_no_model_and_no_default_model_is_said(gateway: RunningGateway) -> None:
    for body in ({"inputs": "x"}, {"inputs": "x", "model": None}, {"inputs": "x", "model": ""}):
        await refused(gateway, 400, "no_default_model", json.dumps(body).encode())
    async with gateway.session.get("/info") as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["code"] == "no_default_model"


# Identifiers.


@pytest.mark.parametrize(
    "spelling",
    [
        "..",
        "../physics",
        "finetuned/../finetuned/physics",
        "finetuned/./physics",
        "huggingface:../../etc",
        "/etc",
        "/etc/passwd",
        "huggingface:/app/../etc",
        "finetuned//physics",
        "finetuned/phy\nsics",
        "finetuned/physics\0",
        "finetuned/phy\u202esics",
        "finetuned/" + "x" * 600,
        "é" * 300,
        "a/b/c/d",
        "finetuned/physics@latest",
        "finetuned/physics@",
        "finetuned\\physics",
        "~",
        "/",
        " ",
    ],
)
async def test_an_identifier_that_is_none_or_escapes_is_refused(gateway: RunningGateway, spelling: str) -> None:
    error = await refused(gateway, 400, "invalid_model_id", {"model": spelling})
    assert "\n" not in error.get("model", "")


@pytest.mark.parametrize("name", ["model", "header", "path"])
async def test_an_identifier_is_judged_the_same_wherever_it_stands(gateway: RunningGateway, name: str) -> None:
    """In the body, in X-Model and in the path."""
    wrong = "finetuned/%5cphysics" if name == "path" else "finetuned/\\physics"
    url = f"/models/{wrong}/embed" if name == "path" else "/embed"
    headers = {"X-Model": wrong} if name == "header" else {}
    body = {"inputs": "x"} | ({"model": wrong} if name == "model" else {})
    async with gateway.session.post(url, json=body, headers=headers) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["code"] == "invalid_model_id"


async def test_bytes_of_no_encoding_in_a_header_or_a_path_are_a_wrong_identifier(gateway: RunningGateway) -> None:
    for line, header in (("POST /embed", b"X-Model: \xff\xfe"), ("GET /models/%FF%FE", b"X-Model: x")):
        raw = b'{"inputs":"x"}' if line.startswith("POST") else b""
        head = b"%s HTTP/1.1\r\nHost: localhost\r\n%s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        answer = await spoken(gateway, head % (line.encode(), header, len(raw)) + raw)
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert b"invalid_model_id" in answer


async def test_an_unknown_model_is_told_what_was_looked_for_and_the_closest(gateway: RunningGateway) -> None:
    error = await refused(gateway, 404, "model_not_found", {"model": "huggingface:finetuned/phyiscs"})
    assert error["closest"][0] == "huggingface:finetuned/physics"
    assert "finetuned/phyiscs" in error["message"]
    assert "huggingface:finetuned/physics" in error["message"]
    for method, path in (("GET", ""), ("POST", "/load"), ("POST", "/unload"), ("POST", "/pin"), ("POST", "/unpin")):
        async with gateway.session.request(method, f"/models/finetuned/phyiscs{path}") as answer:
            assert answer.status == 404
            assert (await answer.json())["error"]["code"] == "model_not_found"


async def test_a_generation_that_is_gone_is_told_those_that_are_there(gateway: RunningGateway) -> None:
    _, live = await gateway.embed(["x"], MODEL)
    error = await refused(gateway, 404, "generation_not_found", {"model": f"{MODEL}@0123456789ab"})
    assert error["generations"] == [live]


async def test_a_model_that_is_being_copied_is_a_conflict_that_says_so(gateway: RunningGateway) -> None:
    error = await refused(gateway, 409, "model_copying", {"model": "finetuned/arriving"})
    assert "model.safetensors.partial" in error["message"]
    assert (await gateway.models())["huggingface:finetuned/arriving"]["state"] == "copying"


async def test_a_rejected_model_is_a_conflict_with_its_reasons(gateway: RunningGateway) -> None:
    error = await refused(gateway, 409, "model_rejected", {"model": "finetuned/broken"})
    assert error["model"] == "huggingface:finetuned/broken"
    (reason,) = error["reasons"]
    assert (reason["code"], reason["file"]) == ("weights_truncated", "model.safetensors")
    assert "model.safetensors" in reason["remedy"]


# Too much.


async def test_too_many_texts_are_refused_with_the_limit(gateway: RunningGateway) -> None:
    error = await refused(gateway, 413, "too_many_inputs", {"inputs": ["x"] * 10_000})
    assert error["limit"] == 2048


async def test_a_body_over_the_limit_is_refused(gateway: RunningGateway) -> None:
    error = await refused(gateway, 413, "body_too_large", {"inputs": "x" * (MAX_BODY + 1)})
    assert "limit" in error["message"]


async def test_a_text_of_a_megabyte_is_cut_unless_the_request_forbids_it(gateway: RunningGateway) -> None:
    text = "beam " * 200_000
    status, answer = await ask(gateway, {"inputs": text})
    assert status == 200
    assert answer["usage"]["tokens"] == 64
    error = await refused(gateway, 413, "input_too_long", {"inputs": ["short", text], "truncate": False})
    assert (error["index"], error["max_tokens"]) == (1, 64)
    assert "at least" in error["message"]  # it is not read to its end
    assert 64 < error["tokens"] <= 200_002


async def test_empty_texts_have_a_vector(gateway: RunningGateway) -> None:
    status, answer = await ask(gateway, {"inputs": ["", " ", "\n"]})
    assert status == 200
    assert [len(vector) for vector in answer["embeddings"]] == [32] * 3


# HTTP itself.


@pytest.mark.parametrize("path", ["/nothing", "/embed/", "/v3/embeddings", "/embed/more"])
async def test_an_unknown_route_is_an_error_of_ours(gateway: RunningGateway, path: str) -> None:
    async with gateway.session.post(path) as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "route_not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/embed", "POST"), ("POST", "/healthz", "GET"), ("DELETE", "/models", "GET"), ("PUT", "/embed", "POST")],
)
async def test_another_method_is_told_the_right_one(
    gateway: RunningGateway, method: str, path: str, allowed: str
) -> None:
    async with gateway.session.request(method, path) as answer:
        assert answer.status == 405
        error = (await answer.json())["error"]
        assert error["code"] == "method_not_allowed"
        assert allowed in error["message"]
        assert allowed in answer.headers["Allow"]


async def test_a_body_that_is_not_packed_as_it_says_is_an_error_of_the_request(gateway: RunningGateway) -> None:
    head = (
        b"POST /embed HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 7\r\n\r\n"
    )
    answer = await spoken(gateway, head + b"abcdefg")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"invalid_body"' in answer


@pytest.mark.parametrize(
    "said",
    [
        b"POST /embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_400_and_one_line_in_the_log(gateway: RunningGateway, said: bytes) -> None:
    seen = len(gateway.log)
    answer = await spoken(gateway, said)
    assert answer.split(b"\r\n")[0].endswith(b" 400 Bad Request")
    told = await gateway.wait_for_log("notice", after=seen, code="http_broken")
    assert "\n" not in told["message"]


async def spoken(gateway: RunningGateway, said: bytes) -> bytes:
    """What the gateway answers to bytes that no client library would send."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(said)
    answer = await asyncio.wait_for(reader.read(65536), DEADLINE)
    writer.close()
    return answer


async def test_a_client_that_leaves_while_its_body_arrives_costs_nothing(gateway: RunningGateway) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /embed HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: leaving\r\nContent-Length: 999\r\n\r\n{")
    await writer.drain()
    await until_started(gateway)
    writer.transport.abort()
    left = await gateway.wait_for_log("request", request_id="leaving")
    assert left["status"] == 499
    assert (await gateway.embed(["still here"], MODEL))[0].shape == (1, 32)


async def until_started(gateway: RunningGateway) -> None:
    """Connections are read in order: once a later one was answered, the earlier one has been read."""
    async with gateway.session.get("/healthz", headers={"Connection": "close"}) as answer:
        assert answer.status == 200


async def test_nothing_of_all_this_was_an_error_of_the_gateways_own(gateway: RunningGateway) -> None:
    """Runs last. A stack trace in the log would be one."""
    assert [record for record in gateway.log if record.get("status") == 500] == []
    assert [record for record in gateway.log if "Traceback" in json.dumps(record) or "text" in record] == []
