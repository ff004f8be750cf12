"""The `gateway` command as a user types it: what it prints, where, and its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway import __version__, cli, errors, settings
from gateway.web.errors import answer
from tests import making
from tests.ports import number, reserved

HEAVY: Final = (
    *("torch", "transformers", "sentence_transformers", "huggingface_hub"),
    *("aiohttp", "uvloop", "numpy", "watchdog"),
)
WITHOUT: Final = """
import contextlib, sys
{work}
print(sorted(set(sys.argv[1:]) & sys.modules.keys()))
"""
FAILING = """
import asyncio, sys, threading
from gateway import cli, life
from gateway.lane import Lane

begun = threading.Event()

def copy():
    begun.set()
    threading.Event().wait()

async def fail():
    while not begun.is_set():
        await asyncio.sleep(0)
    raise OSError("out of luck")

async def run(chosen, on_ready=None):
    async with asyncio.TaskGroup() as group:
        group.create_task(Lane("copies").run(copy))
        group.create_task(fail())

life.run = run
sys.exit(cli.main(sys.argv[1:]))
"""
Serve = Callable[[web.Application], Awaitable[TestServer]]
LISTED: Final = {
    "id": "huggingface:finetuned/m", "state": "loaded", "pending": None, "reasons": [], "load_error": None,
    "kind": "generator", "base": "base/m",
    "generation": "0123456789ab", "pinned": True, "dim": 384, "bytes_on_disk": 91_000_000, "bytes_on_device": 512,
}  # fmt: skip
REJECTED: Final = {
    **LISTED, "id": "huggingface:finetuned/bad", "state": "rejected", "generation": None, "pinned": False, "dim": None,
    "reasons": [{"code": "weights_truncated", "message": "it stops too early"}], "bytes_on_device": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    return making.encoder(tmp_path_factory.mktemp("made") / "m", dim=16, layers=1, heads=2, prompts={"query": "q: "})


@pytest.fixture
def model(tmp_path: Path, made: str) -> Path:
    return Path(shutil.copytree(made, tmp_path / "m"))


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set on this machine must not decide a test."""
    names = {name for spec in settings.fields(settings.Settings) for name in settings.environment_names(spec.name)}
    for name in names | {"DROPGATE_URL", "DROPGATE_CONFIG"} | {name for name in os.environ if "proxy" in name.lower()}:
        monkeypatch.delenv(name, raising=False)


def imported(work: str) -> list[str]:
    """Which of the heavy modules a fresh process has after this work."""
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(work=work), *HEAVY], capture_output=True, text=True, check=True
    )
    found: list[str] = json.loads(ran.stdout.splitlines()[-1].replace("'", '"'))
    return found


def gateway(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`gateway ...` in a process of its own, with a bound that only ends a test that hangs."""
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def status(*arguments: str) -> int:
    """The exit status of `gateway ...` in this process."""
    try:
        return cli.main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["serve", "--help"], ["models", "--help"], ["check", "--help"], ["pull", "--help"]]
)
def test_help_imports_nothing_that_takes_time(arguments: list[str]) -> None:
    work = f"from gateway import cli\nwith contextlib.suppress(SystemExit):\n    cli.main({arguments})"
    assert imported(work) == []


def test_the_gateway_process_itself_never_imports_torch() -> None:
    heavy = {"torch", "transformers", "sentence_transformers", "huggingface_hub"}
    assert not heavy & set(imported("import gateway.life"))


def test_checking_a_directory_needs_neither_torch_nor_a_server(made: str) -> None:
    loaded = imported(f"from gateway import cli\nassert cli.main(['check', {made!r}]) == 0")
    assert not set(loaded) - {"numpy"}


def test_help_names_every_setting_with_its_flag_and_its_variables(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("serve", "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for spec in settings.fields(settings.Settings):
        assert settings.flag(spec.name) + " " in shown
        for variable in settings.environment_names(spec.name):
            assert variable in shown


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--version") == 0
    assert capsys.readouterr().out == f"dropgate {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["models"], ["models", "load"], ["check"], ["serve", "--fly"]])
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(*arguments) == 2
    assert "usage: gateway" in capsys.readouterr().err


# check


def test_a_whole_model_would_be_served_and_what_it_is_is_shown(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("check", str(model)) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("accepted\n")
    for fact in ("BertModel", "16 numbers, unit length", "mean", "64 tokens", "model.safetensors", "query"):
        assert fact in shown


def test_a_directory_that_is_not_what_its_sums_list_would_be_rejected(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gateway itself goes by SHA256SUMS, so the check does."""
    (model / "SHA256SUMS").write_text(f"{'0' * 64}  config.json\n")
    assert status("check", str(model)) == 1
    assert "checksum_mismatch (incomplete)" in capsys.readouterr().out


def test_a_name_of_a_copy_in_progress_is_told(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "model.safetensors.part").write_bytes(b"")
    assert status("check", str(model)) == 0
    assert "model.safetensors.part is a name of a copy in progress" in capsys.readouterr().out


def test_a_truncated_model_would_be_rejected_with_the_file_the_bytes_and_the_remedy(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.truncate(model / "model.safetensors", 2000)
    assert status("check", str(model)) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("rejected\n")
    assert "weights_truncated (incomplete)" in shown
    assert "model.safetensors" in shown
    assert re.search(r"model\.safetensors has [\d.,]+ of [\d.,]+ k?B", shown)
    assert "remedy: Copy model.safetensors again" in shown


def test_every_reason_is_told_at_once(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(model / "model.safetensors", 2000)
    (model / "tokenizer.json").unlink()
    assert status("check", str(model)) == 1
    shown = capsys.readouterr().out
    assert "weights_truncated" in shown
    assert "tokenizer_missing" in shown


def test_an_adapter_is_checked_with_its_base_where_that_is_said_to_be(
    made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made, tmp_path / "models/base/b")
    path = making.adapter(tmp_path / "a", base="Org/b", dim=16, layers=1)
    assert status("check", path) == 1
    assert "base_missing" in capsys.readouterr().out
    assert status("check", "--bases", str(tmp_path / "models"), path) == 0
    assert "base/b" in capsys.readouterr().out


def test_the_verdict_is_there_as_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("check", "--json", str(model)) == 0
    accepted = json.loads(capsys.readouterr().out)
    assert (accepted["type"], accepted["manifest"]["dim"]) == ("Accepted", 16)
    (model / "config.json").unlink()
    assert status("check", "--json", str(model)) == 1
    rejected = json.loads(capsys.readouterr().out)
    assert rejected["type"] == "Rejected"
    assert rejected["reasons"][0]["code"] == "config_missing"


def test_pickled_weights_are_judged_as_the_gateway_was_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = making.encoder(tmp_path / "m", dim=16, layers=1, heads=2, weights="bin", plain=True)
    assert status("check", model) == 1
    assert "pickle_weights (refused)" in capsys.readouterr().out
    assert status("check", "--allow-pickle", model) == 0


def test_broken_metadata_is_a_warning_and_no_rejection(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for broken in ("{", '{"odd": "\\ud800"}'):
        (model / "model_metadata.json").write_text(broken)
        assert status("check", str(model)) == 0
        assert "warning  metadata_invalid: model_metadata.json" in capsys.readouterr().out


def test_what_is_no_directory_exits_2_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "nowhere"):
        assert status("check", str(path)) == 2
        assert capsys.readouterr().err == f"gateway: {path} is not a directory\n"


def test_the_real_minilm_would_be_served(minilm: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("check", minilm) == 0
    assert "384 numbers, unit length" in capsys.readouterr().out


# models


@pytest.mark.parametrize("arguments", [["list"], ["--json", "list"], ["show", "m"], ["load", "m"], ["pin", "m"]])
def test_without_a_gateway_the_message_says_where_it_was_looked_for(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with reserved() as silent:
        url = f"http://127.0.0.1:{number(silent)}"
        assert status("models", "--url", url, *arguments) == 1
    told = capsys.readouterr()
    assert told.err.startswith(f"gateway: no gateway answers at {url} (")
    assert "--url" in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    "url", ["nonsense", "http://", "http://[", "http://127.0.0.1:port", "ftp://x/", "http://a b/", "file:///etc"]
)
def test_what_is_no_url_of_a_gateway_is_a_message_too(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("models", "--url", url, "list") == 1
    assert capsys.readouterr().err.startswith("gateway: no gateway answers at ")


async def run(server: TestServer, *arguments: str) -> int:
    return await asyncio.to_thread(status, "models", "--url", str(server.make_url("")), *arguments)


def application(handler: Callable[[web.Request], web.Response]) -> web.Application:
    async def handle(request: web.Request) -> web.Response:
        return handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    return app


async def test_the_list_is_a_table_with_the_reasons(aiohttp_server: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = await aiohttp_server(application(lambda request: web.json_response({"models": [LISTED, REJECTED]})))
    assert await run(server, "list") == 0
    header, good, bad = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["MODEL", "KIND", "STATE"]
    assert good.split() == [
        "huggingface:finetuned/m", "(pinned)", "generator", "over", "base/m", "loaded",
        "0123456789ab", "384", "91.0", "MB", "512", "B",
    ]  # fmt: skip
    assert bad.endswith("weights_truncated: it stops too early")
    assert await run(server, "--json", "list") == 0
    assert json.loads(capsys.readouterr().out)["models"][0] == LISTED


async def test_an_empty_volume_is_told_in_words(aiohttp_server: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = await aiohttp_server(application(lambda request: web.json_response({"models": []})))
    assert await run(server, "list") == 0
    assert capsys.readouterr().out == "the volume holds no model\n"


@pytest.mark.parametrize("action", ["load", "unload", "pin", "unpin"])
async def test_an_action_is_posted_to_the_model_and_its_state_is_told(
    action: str, aiohttp_server: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, str]] = []

    def handle(request: web.Request) -> web.Response:
        asked.append((request.method, request.path))
        return web.json_response(LISTED)

    server = await aiohttp_server(application(handle))
    assert await run(server, action, "huggingface:finetuned/m") == 0
    assert asked == [("POST", f"/models/huggingface:finetuned/m/{action}")]
    assert capsys.readouterr().out == "huggingface:finetuned/m: loaded, pinned\n"


async def test_one_model_is_shown_in_full(aiohttp_server: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = await aiohttp_server(application(lambda request: web.json_response({**LISTED, "path": request.path})))
    assert await run(server, "show", "a name/\u5149@abcdef") == 0
    assert json.loads(capsys.readouterr().out)["path"] == "/models/a name/\u5149@abcdef"


async def test_what_the_gateway_refuses_is_told_with_its_code(
    aiohttp_server: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await aiohttp_server(application(lambda request: answer(errors.ModelNotFound("no model 'm'"))))
    assert await run(server, "show", "m") == 1
    assert capsys.readouterr().err == "gateway: no model 'm' (model_not_found)\n"


@pytest.mark.parametrize(
    "response",
    [
        lambda request: web.Response(text="<html>hello"),
        lambda request: web.json_response([1]),
        lambda request: web.json_response({"hello": 1}),
        lambda request: web.Response(status=502, text="Bad gateway"),
        lambda request: web.json_response({"error": "no"}, status=500),
    ],
)
async def test_another_program_at_that_address_is_told_in_one_line(
    response: Callable[[Any], web.Response], aiohttp_server: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await aiohttp_server(application(response))
    assert await run(server, "list") == 1
    told = capsys.readouterr().err
    assert told.startswith("gateway: ")
    assert len(told.splitlines()) == 1


# serve


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--port=http"], "--port='http'"),
        (["--memory-budget=lots"], "--memory-budget='lots'"),
        (["--log-level=loud"], "--log-level='loud'"),
        (["--models-dir=/srv/m", "--state-dir=/srv/m/state"], "--state-dir"),
        (["--config=/nowhere.toml"], "/nowhere.toml"),
    ],
)
def test_a_wrong_setting_exits_2_and_is_named(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("serve", *arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("gateway: ")
    assert named in told


def refused(tmp_path: Path, *options: str) -> str:
    """What `gateway serve` says when it does not start; it must exit with 2 and no stack trace."""
    ran = gateway("serve", f"--models-dir={tmp_path}/models", f"--state-dir={tmp_path}/state", *options)
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stderr.startswith("gateway: ")
    return ran.stderr


def test_a_port_that_is_taken_exits_2_and_names_the_flag(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = refused(tmp_path, "--device=cpu", f"--port={port}")
    assert f"127.0.0.1:{port}" in told
    assert "--port" in told


def test_a_device_that_is_not_there_exits_2_and_names_the_flag(tmp_path: Path) -> None:
    assert "--device gpu" in refused(tmp_path, "--device=gpu", "--port=0")


def test_an_address_that_is_none_exits_2_and_names_the_flag(tmp_path: Path) -> None:
    assert "--host" in refused(tmp_path, "--device=cpu", "--host=a..b", "--port=0")


def test_a_state_directory_that_cannot_be_made_exits_2_and_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    assert f"--state-dir {tmp_path}/state" in refused(tmp_path, "--device=cpu", "--port=0")


def test_a_gateway_that_fails_ends_at_once_though_a_thread_is_busy(tmp_path: Path) -> None:
    serve = ("serve", f"--models-dir={tmp_path}/models", f"--state-dir={tmp_path}/state")
    ran = subprocess.run(
        [sys.executable, "-c", FAILING, *serve], capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 1
    assert "OSError: out of luck" in ran.stderr


def test_checking_a_reranker_says_what_its_scores_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("check", making.reranker(tmp_path / "m")) == 0
    shown = capsys.readouterr().out
    assert "reranker (transformers)" in shown
    assert "scores        Sigmoid" in shown
    assert "vectors" not in shown


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_other_machines_are_not_served_without_a_key_and_the_message_says_what_to_do(tmp_path: Path, host: str) -> None:
    told = refused(tmp_path, "--device=cpu", "--port=0", f"--host={host}")
    assert "gateway keys create" in told
    assert "--insecure" in told
