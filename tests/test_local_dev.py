"""scripts/local-dev.sh: what it has docker or podman do, and how it judges a gateway that runs."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from tests.running import RunningGateway
from tests.scripted import ROOT, Ended, program, run

NOBODY = {"PROMETHEUS_PORT": "1", "OLLAMA_PORT": "1", "BUCKET_PORT": "1"}  # a port that nothing listens on
ENGINE = """
[[ $1 == info ]] && exit {up}
[[ $2 == version ]] && exit 0
echo "{name} $*" >>"$DONE"
"""
PATIENT_CURL = f'exec {shutil.which("curl")} "$@" --max-time 300'  # the last one counts; it only ends a test that hangs


class Engines:
    """A docker and a podman that write down what they are to do; podman-compose is a program of its own."""

    def __init__(self, folder: Path, *, docker: bool, podman: bool) -> None:
        self.folder = folder
        self.done = folder / "done"
        for name, up in {"docker": docker, "podman": podman}.items():
            program(folder, name, ENGINE.format(name=name, up=int(not up)))
        program(folder, "curl", PATIENT_CURL)
        program(folder, "podman-compose", '[[ $1 == version ]] || echo "podman-compose $*" >>"$DONE"')

    def run(self, *arguments: str, **variables: str) -> Ended:
        return run("local-dev.sh", *arguments, path=self.folder, DONE=str(self.done), **NOBODY, **variables)

    def told(self) -> list[str]:
        """What they were told, without the file that is named each time."""
        lines = self.done.read_text().splitlines() if self.done.exists() else []
        return [line.replace(f" --file {ROOT}/docker-compose.local.yml", "") for line in lines]


@pytest.fixture
def docker(tmp_path: Path) -> Engines:
    return Engines(tmp_path / "bin", docker=True, podman=True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "docker compose build gateway"),
        (("build",), "docker compose build gateway"),
        (("--no-cache",), "docker compose build --no-cache gateway"),
        (("build", "--no-cache"), "docker compose build --no-cache gateway"),
        (("build-all", "--no-cache"), "docker compose --profile train build --no-cache gateway trainer"),
        (("down",), "docker compose --profile train --profile observe --profile llm --profile bucket down"),
        (
            ("logs", "gateway"),
            "docker compose --profile train --profile observe --profile llm --profile bucket logs --follow gateway",
        ),
    ],
)
def test_each_verb_is_one_call_of_compose(docker: Engines, arguments: tuple[str, ...], told: str) -> None:
    done = docker.run(*arguments)
    assert done.status == 0, done.err
    assert docker.told() == [told]


def test_clean_takes_volumes_and_images_and_never_the_models(docker: Engines) -> None:
    done = docker.run("clean")
    assert done.status == 0, done.err
    compose, images = docker.told()
    assert compose.endswith("down --volumes")
    assert images == "docker image rm dropgate:dev dropgate-trainer:dev"


def test_podman_is_taken_where_no_docker_runs(tmp_path: Path) -> None:
    engines = Engines(tmp_path / "bin", docker=False, podman=True)
    assert engines.run("build").status == 0
    assert engines.told() == ["podman-compose build gateway"]


def test_the_engine_can_be_named(docker: Engines) -> None:
    assert docker.run("build", ENGINE="podman").status == 0
    assert docker.told() == ["podman-compose build gateway"]
    assert docker.run("build", ENGINE="lxc").status == 2


def test_without_an_engine_it_says_so(tmp_path: Path) -> None:
    engines = Engines(tmp_path / "bin", docker=False, podman=False)
    done = engines.run("up")
    assert done.status == 1
    assert "neither docker nor podman runs here" in done.err
    assert engines.told() == []


@pytest.mark.parametrize(
    "arguments", [("serve",), ("up", "--quick"), ("up", "--with"), ("up", "--with", "qdrant"), ("health", "now")]
)
def test_wrong_usage_is_status_2_with_the_usage_and_nothing_is_done(
    docker: Engines, arguments: tuple[str, ...]
) -> None:
    done = docker.run(*arguments)
    assert done.status == 2
    assert "usage:" in done.err
    assert docker.told() == []


def test_help_is_no_failure(docker: Engines) -> None:
    for flag in ("-h", "--help"):
        done = docker.run(flag)
        assert (done.status, done.err) == (0, "")
        assert "manage" not in done.out
        assert "restart" in done.out


async def test_up_ends_when_the_gateway_is_ready_and_health_agrees(docker: Engines, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    async with RunningGateway(tmp_path / "models", tmp_path / "state") as gateway:
        port = str(urlsplit(gateway.url).port)
        up = await asyncio.to_thread(docker.run, "up", "--with", "observe", DROPGATE_PORT=port)
        assert up.status == 0, up.err
        assert up.out.startswith(f"ready: http://127.0.0.1:{port}")
        assert docker.told() == ["docker compose --profile observe up --detach"]
        health = await asyncio.to_thread(docker.run, "health", DROPGATE_PORT=port)
        assert health.status == 0, health.out
        assert [line.split()[0] for line in health.out.splitlines()] == ["ok"] * 4 + ["off"] * 3


async def test_an_answer_that_is_no_200_is_no_health(docker: Engines, tmp_path: Path) -> None:
    app = web.Application()
    app.add_routes([web.get("/healthz", _ok), web.get("/metrics", _ok), web.get("/models", _ok)])
    async with _serving(app) as port:
        health = await asyncio.to_thread(docker.run, "health", DROPGATE_PORT=port)
        assert health.status == 1
        assert f"FAILED  http://127.0.0.1:{port}/readyz answered 404" in health.out
        up = await asyncio.to_thread(docker.run, "up", DROPGATE_PORT=port, WAIT="0")
        assert up.status == 1
        assert "answered 404 and not 200 within 0 seconds" in up.err
        assert docker.told() == ["docker compose up --detach", "docker compose logs --tail 20 gateway"]
        other = await asyncio.to_thread(docker.run, "health", DROPGATE_PORT=port)
        assert other.status == 1


async def test_a_profile_that_runs_ill_is_no_health_either(docker: Engines) -> None:
    async def ill(_: web.Request) -> web.Response:
        return web.Response(status=503)

    app = web.Application()
    app.add_routes([web.get(path, _ok) for path in ("/healthz", "/readyz", "/metrics", "/models")])
    app.add_routes([web.get("/-/ready", ill)])
    async with _serving(app) as port:
        well = await asyncio.to_thread(docker.run, "health", DROPGATE_PORT=port)
        assert well.status == 0, well.out
        variables = {"PROMETHEUS_PORT": port, "OLLAMA_PORT": "1", "BUCKET_PORT": "1", "DROPGATE_PORT": port}
        health = await asyncio.to_thread(lambda: run("local-dev.sh", "health", path=docker.folder, **variables))
        assert health.status == 1
        assert "(prometheus) answered 503" in health.out


async def _ok(_: web.Request) -> web.Response:
    return web.Response()


class _serving:
    """`async with _serving(app) as port`, on loopback."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app)

    async def __aenter__(self) -> str:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return str(self._runner.addresses[0][1])

    async def __aexit__(self, *failure: object) -> None:
        await self._runner.cleanup()
