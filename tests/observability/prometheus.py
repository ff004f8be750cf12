"""Debian's Prometheus, with the configuration that we ship, reading a gateway of the test's own twice a second."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import pytest
import yaml

from tests import ports
from tests.observability.files import FOLDER, Expression
from tests.running import DEADLINE, GLANCE

needs_prometheus: Final = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not on this machine: apt-get install prometheus"
)
needs_promtool: Final = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not on this machine: apt-get install prometheus"
)
OFTEN: Final = "500ms"


class RunningPrometheus:
    """`async with RunningPrometheus(folder, url, key)`: reads the gateway at `url`, and judges it by our alerts; if it
    is `hurried`, with seconds where they have minutes."""

    def __init__(self, folder: Path, url: str, key: str = "", *, hurried: bool = False) -> None:
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": OFTEN, "evaluation_interval": OFTEN}
        config["rule_files"] = [str(folder / "alerts.yml")]
        (job,) = config["scrape_configs"]
        job["static_configs"] = [{"targets": [url.removeprefix("http://")]}]
        if key:
            job["authorization"] = {"credentials": key}
        folder.mkdir()
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        alerts = (FOLDER / "alerts.yml").read_text(encoding="utf-8")
        (folder / "alerts.yml").write_text(hurry(alerts) if hurried else alerts, encoding="utf-8")
        self._held = ports.reserved()
        self.url = f"http://127.0.0.1:{ports.number(self._held)}"
        self._folder = folder

    async def __aenter__(self) -> Self:
        self._log = (self._folder / "log").open("wb")
        self._process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            stdout=self._log,
            stderr=self._log,
        )
        self._session = aiohttp.ClientSession(self.url)
        try:
            async with asyncio.timeout(DEADLINE):
                while not await self._ready():
                    assert self._process.returncode is None, (self._folder / "log").read_text(encoding="utf-8")
                    await asyncio.sleep(GLANCE)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._session.close()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._log.close()
        self._held.close()

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that it has now."""
        async with self._session.post("/api/v1/query", data={"query": expression}) as answer:
            body = await answer.json()
        assert body["status"] == "success", body
        found: list[dict[str, Any]] = body["data"]["result"]
        return found

    async def without_data(self, expressions: Iterable[Expression]) -> list[Expression]:
        return [each for each in expressions if not await self.query(each.text)]

    async def alerts(self) -> dict[str, str]:
        """Alert -> pending or firing. Pending: what it waits for is there, and has not lasted yet."""
        async with self._session.get("/api/v1/alerts") as answer:
            body = await answer.json()
        return {alert["labels"]["alertname"]: alert["state"] for alert in body["data"]["alerts"]}

    async def _ready(self) -> bool:
        try:
            async with self._session.get("/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False


def hurry(alerts: str) -> str:
    """The same alerts, which wait a second and look back over some."""
    alerts = re.sub(r"\bfor: \d+[mh]$", "for: 1s", alerts, flags=re.MULTILINE)
    alerts = re.sub(r"\[\d+[mh]\]", "[15s]", alerts)
    return alerts.replace("timestamp_seconds > 120", "timestamp_seconds > 3")
