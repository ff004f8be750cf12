"""`gateway models wait`: served, refused with the reasons, or not in time; and what was there before does not count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway import arrival, cli, errors
from gateway.web.errors import answer
from tests.ports import reserved

MODEL = "huggingface:finetuned/m"
REASON = {
    "code": "weights_truncated",
    "kind": "incomplete",
    "message": "model.safetensors stops too early",
    "remedy": "Copy it again.",
    "file": "model.safetensors",
}
Serve = Callable[[web.Application], Coroutine[Any, Any, TestServer]]


def shown(state: str = "ready", **fields: Any) -> dict[str, Any]:
    return {"id": MODEL, "inode": 7, "state": state, "generation": "abc", "pending": None, "reasons": [], **fields}


def pending(state: str) -> dict[str, str]:
    return {"state": state, "why": "because"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, arrival.UNSEEN),
        (shown(inode=6), arrival.UNSEEN),
        (shown(inode=6, reasons=[REASON]), arrival.UNSEEN),
        (shown(inode=None), arrival.UNSEEN),
        (shown("copying", pending=pending("copying")), "copying: because"),
        (shown("copying", generation=None), "copying"),
        (shown("loaded", pending=pending("loading")), "loading: because"),
        (shown("loaded", pending=pending("copying"), reasons=[REASON]), "copying: because"),
        (shown("loaded", pending=pending("rejected"), reasons=[REASON]), "refused"),
        (shown("rejected", reasons=[REASON]), "refused"),
        (shown("ready", reasons=[REASON]), "refused"),
        (shown("ready"), "served"),
        (shown("loading"), "served"),
        (shown("loaded"), "served"),
        (shown("draining"), "served"),
    ],
)
def test_how_it_stands(found: dict[str, Any] | None, expected: str) -> None:
    assert arrival.standing(found, 7) == expected


def test_without_an_inode_what_is_there_counts() -> None:
    assert arrival.standing(shown(inode=6), None) == "served"


def gateway(*answers: Callable[[], web.Response]) -> web.Application:
    """Answers one after the other, and the last one for ever."""
    left = list(answers)

    async def handle(request: web.Request) -> web.Response:
        assert request.path == f"/models/{MODEL}"
        return (left.pop(0) if len(left) > 1 else left[0])()

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    return app


def told(*fields: dict[str, Any]) -> list[Callable[[], web.Response]]:
    return [lambda each=each: web.json_response(each) for each in fields]


async def wait(server: TestServer, *, timeout: float = 300.0, inode: int | None = 7) -> int:
    url = str(server.make_url(""))
    return await asyncio.to_thread(arrival.run, MODEL, url=url, inode=inode, timeout=timeout, interval=0.0)


async def test_it_waits_over_all_that_comes_before_and_ends_when_the_model_is_served(
    aiohttp_server: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = lambda: answer(errors.ModelNotFound("no such model"))  # noqa: E731
    restarting = lambda: answer(errors.ShuttingDown("the gateway drains"))  # noqa: E731
    steps = told(
        shown(inode=6, generation="old"),
        shown("loaded", pending=pending("copying")),
        shown("loaded", pending=pending("copying")),
        shown("ready", generation="new"),
    )
    server = await aiohttp_server(gateway(missing, restarting, *steps))
    assert await wait(server) == 0
    found = capsys.readouterr()
    assert found.out == f"{MODEL}: ready, generation new\n"
    assert found.err.splitlines() == [f"{MODEL}: not seen yet", f"{MODEL}: copying: because"]


async def test_a_refusal_is_told_with_every_reason_its_remedy_and_what_goes_on(
    aiohttp_server: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {**REASON, "code": "tokenizer_missing", "message": "there is none", "remedy": "Copy it too.", "file": None}
    server = await aiohttp_server(gateway(*told(shown("ready", reasons=[REASON, other]))))
    assert await wait(server) == 1
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.splitlines() == [
        f"{MODEL}: what was put there is not served; abc goes on serving",
        "  weights_truncated (incomplete): model.safetensors stops too early",
        "    remedy: Copy it again.",
        "  tokenizer_missing (incomplete): there is none",
        "    remedy: Copy it too.",
    ]


async def test_what_does_not_come_in_time_is_told_with_how_it_stands(
    aiohttp_server: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await aiohttp_server(gateway(*told(shown("copying", pending=pending("copying")))))
    assert await wait(server, timeout=0.0) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"gateway: {MODEL} was not served in time; it is copying: because"
    )


async def test_a_key_that_is_refused_ends_the_wait_at_once(
    aiohttp_server: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await aiohttp_server(gateway(lambda: answer(errors.Unauthenticated("a key is needed"))))
    assert await wait(server) == 1
    assert "(unauthenticated)" in capsys.readouterr().err


async def test_another_program_at_that_address_is_told(
    aiohttp_server: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await aiohttp_server(gateway(lambda: web.json_response({"hello": 1})))
    assert await wait(server) == 1
    assert "another program answers there" in capsys.readouterr().err


async def test_where_nobody_answers_at_first_it_does_not_wait(
    aiohttp_server: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await aiohttp_server(gateway(*told(shown())))
    url = str(server.make_url(""))
    await server.close()
    arguments = ["models", "--url", url, "wait", MODEL, "--timeout", "300"]
    with reserved(server.port or 0):
        assert await asyncio.to_thread(cli.main, arguments) == 1
    assert capsys.readouterr().err.startswith(f"gateway: no gateway answers at {url.rstrip('/')} (")


async def test_the_command_line_waits_for_the_directory_that_is_named(
    aiohttp_server: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await aiohttp_server(gateway(*told(shown(inode=6))))
    arguments = ["models", "--url", str(server.make_url("")), "wait", MODEL, "--inode", "7", "--timeout", "0"]
    assert await asyncio.to_thread(cli.main, arguments) == 1
    assert "not seen yet" in capsys.readouterr().err
    assert await asyncio.to_thread(cli.main, [*arguments[:-4], "--inode", "6"]) == 0
