"""Tenants of a gateway as an operator runs it: keys made by command while it serves, fairness, the audit log, usage."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import making
from tests.running import DEADLINE, RunningGateway

MODEL = "finetuned/large"
MOST = 4000  # tokens that may wait
TEXTS = ["alpha beta gamma delta " * 12] * 8  # some 400 tokens


def gateway_command(*words: str, key: str = "") -> str:
    """What `gateway ...` prints."""
    environment = {**os.environ, "DROPGATE_API_KEY": key}
    command = [sys.executable, "-m", "gateway", *words]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=DEADLINE)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


class Site:
    """A volume, a state directory, and the command line."""

    def __init__(self, base: Path) -> None:
        self.models = base / "models"
        self.state = base / "state"
        self.log = base / "audit.jsonl"
        making.encoder(self.models / MODEL, dim=128, layers=6)

    def keys(self, *words: str) -> str:
        return gateway_command("keys", *words, f"--state-dir={self.state}")

    def gateway(self, key: str = "", *options: str) -> RunningGateway:
        settings = ["--device=cpu", "--compute-threads=1", f"--audit-log={self.log}", f"--default-model={MODEL}"]
        running = RunningGateway(self.models, self.state, *settings, *options)
        running.headers = {"X-API-Key": key} if key else {}
        return running

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
async def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def ask(gateway: RunningGateway, key: str, texts: list[str]) -> tuple[int, str]:
    """Status and code."""
    async with gateway.session.post("/embed", json={"inputs": texts}, headers={"X-API-Key": key}) as answer:
        body = await answer.json()
        return answer.status, body["error"]["code"] if answer.status != 200 else ""


async def test_a_tenant_that_floods_a_model_is_refused_and_the_others_are_not(site: Site) -> None:
    flood, other = site.keys("create", "flood"), site.keys("create", "other")
    async with site.gateway(flood, f"--max-queue-tokens={MOST}") as gateway:
        await gateway.wait_for(f"huggingface:{MODEL}", "ready", "loaded")
        assert (await ask(gateway, flood, ["x"]))[0] == 200  # it is loaded from here on
        floods = [asyncio.create_task(ask(gateway, flood, TEXTS)) for _ in range(60)]
        for done in asyncio.as_completed(floods):
            if await done == (429, "overloaded"):
                break
        else:
            pytest.fail("nothing was refused")
        assert await ask(gateway, other, TEXTS) == (200, "")  # what waits of the flood is half of what may, at most
        assert {status for status, _ in await asyncio.gather(*floods)} == {200, 429}


async def test_the_first_key_closes_a_gateway_that_runs_and_rotation_and_revocation_reach_it(site: Site) -> None:
    async with site.gateway() as gateway:
        await gateway.wait_for(f"huggingface:{MODEL}", "ready", "loaded")
        assert (await ask(gateway, "", ["x"]))[0] == 200
        first = site.keys("create", "ops", "--role=operate")
        await gateway.wait_for_log("keys_changed", keys=1)
        assert await ask(gateway, "", ["x"]) == (401, "unauthenticated")
        assert (await ask(gateway, first, ["x"]))[0] == 200
        assert MODEL in gateway_command("models", f"--url={gateway.url}", "load", MODEL, key=first)
        seen = len(gateway.log)
        second = site.keys("rotate", "ops")
        await gateway.wait_for_log("keys_changed", after=seen)
        assert [(await ask(gateway, key, ["x"]))[0] for key in (first, second)] == [200, 200]
        seen = len(gateway.log)
        third = site.keys("rotate", "ops", "--grace=0")
        await gateway.wait_for_log("keys_changed", after=seen)
        assert [(await ask(gateway, key, ["x"]))[0] for key in (first, second, third)] == [401, 401, 200]
        seen = len(gateway.log)
        (site.state / "keys.json").write_text("{", encoding="utf-8")
        await gateway.wait_for_log("keys_rejected", after=seen)
        assert (await ask(gateway, third, ["x"]))[0] == 200
        (site.state / "keys.json").unlink()
        site.keys("create", "another")
        await gateway.wait_for_log("keys_changed", after=seen)
        assert (await ask(gateway, third, ["x"]))[0] == 401


async def test_usage_and_audit_are_whole_after_a_stop_and_go_on_after_a_restart(site: Site) -> None:
    key, admin = site.keys("create", "a"), site.keys("create", "root", "--role=admin")
    id = key.split("_")[1]
    for turn in (1, 2):
        async with site.gateway(admin) as gateway:
            await gateway.wait_for(f"huggingface:{MODEL}", "ready", "loaded")
            assert (await ask(gateway, key, ["alpha", "beta"]))[0] == 200
            assert (await ask(gateway, "wrong", ["alpha"]))[0] == 401
            async with gateway.session.get("/usage", headers={"X-API-Key": key}) as answer:
                (row,) = (await answer.json())["usage"]
            async with gateway.session.get("/metrics") as answer:
                counted = await answer.text()
        assert (row["tenant"], row["requests"], row["texts"], row["refusals"]) == ("a", turn, 2 * turn, 0)
        assert row["tokens"] > 0
        assert row["compute_seconds"] > 0
        assert f'dropgate_tenant_texts_total{{model="{MODEL}",tenant="a"}} {2.0 * turn}' in counted
        lines = site.lines()
        assert [(line["status"], line.get("key")) for line in lines] == [(200, id), (401, None)] * turn
        assert lines[-2] | {"tenant": "a", "model": MODEL, "texts": 2, "tokens": row["tokens"] // turn} == lines[-2]


async def test_no_request_fails_when_the_disk_of_the_audit_log_does(site: Site) -> None:
    site.log.symlink_to("/dev/full")
    async with site.gateway() as gateway:
        await gateway.wait_for(f"huggingface:{MODEL}", "ready", "loaded")
        assert (await ask(gateway, "", ["x"]))[0] == 200
        lost = await gateway.wait_for_log("audit_lost")
        assert "No space left" in lost["message"]
        async with gateway.session.get("/metrics") as answer:
            assert "dropgate_audit_lines_lost_total 1.0" in await answer.text()
        assert (await ask(gateway, "", ["x"]))[0] == 200


async def test_other_machines_are_served_once_there_is_a_key(site: Site) -> None:
    key = site.keys("create", "a", "--role=admin")
    async with site.gateway(key, "--host=0.0.0.0") as gateway:
        await gateway.wait_for(f"huggingface:{MODEL}", "ready", "loaded")
        assert await ask(gateway, "", ["x"]) == (401, "unauthenticated")
        assert (await ask(gateway, key, ["x"]))[0] == 200


async def test_other_machines_are_served_without_a_key_by_who_says_so(site: Site) -> None:
    async with site.gateway("", "--host=0.0.0.0", "--insecure") as gateway:
        await gateway.wait_for(f"huggingface:{MODEL}", "ready", "loaded")
        assert (await ask(gateway, "", ["x"]))[0] == 200


async def test_the_limits_that_an_operator_sets_reach_the_server_and_the_host(site: Site) -> None:
    limits = ("--max-request-tokens=10", "--header-timeout=5", "--body-timeout=5", "--idle-timeout=5")
    async with site.gateway("", *limits) as gateway:  # what is whole comes in much less, also when machines are slow
        await gateway.wait_for(f"huggingface:{MODEL}", "ready", "loaded")
        assert (await ask(gateway, "", ["alpha"]))[0] == 200
        assert await ask(gateway, "", ["alpha"] * 10) == (413, "too_many_tokens")
        head = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"
        whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        found = await asyncio.gather(*(said(gateway, sent) for sent in (head[:20], head + b"{", whole)))
        assert found[0] == b""
        assert found[1].startswith(b"HTTP/1.1 408 ")
        assert found[2].endswith(b'{"status":"ok"}')


async def said(gateway: RunningGateway, sent: bytes) -> bytes:
    """All that comes back until the gateway closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), DEADLINE)
    finally:
        writer.close()
