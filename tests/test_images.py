"""What images and compose files say, held to what there is. Building them is scripts/build-image-offline.sh's."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from gateway import settings
from tests.ports import reserved
from tests.running import RunningGateway
from tests.scripted import ROOT, program, run

DOCKERFILE: Final = (ROOT / "Dockerfile").read_text()
COMPOSE: Final = ROOT / "docker-compose.local.yml"
IMAGE: Final = ROOT / "deploy" / "image"
BIN: Final = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
TORCH: Final = "https://download.pytorch.org/whl"
OTHERS: Final = {  # variables of libraries, in an environment of ours
    *("HF_HOME", "AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
}


def stages() -> dict[str, str]:
    """The text of each stage of the Dockerfile, by name."""
    parts = re.split(r"^FROM \S+ AS (\S+)\n", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def lint(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Skips the test where the program is not installed."""
    found = shutil.which(program, path=BIN)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False)


# --- the Dockerfile ---------------------------------------------------------------------------------------------------


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = lint("hadolint", ROOT / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_all_that_the_dockerfile_copies_is_there_and_let_in() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    copied = {
        source for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]
    }
    assert {"gateway", "trainer", "deploy/image/packages.lock"} <= copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(f"!{part}" in ignore for part in (source, str(Path(source).parent))), f"{source} is ignored"
    assert "*" in ignore, "nothing goes in that is not named"


def test_the_image_that_is_built_when_none_is_named_is_the_gateway() -> None:
    assert list(stages())[-1] == "gateway"


@pytest.mark.parametrize("stage", ["trainer", "served"])
def test_an_image_runs_as_a_user_without_rights(stage: str) -> None:
    assert re.findall(r"^USER (.+)$", stages()[stage], re.MULTILINE) == ["10001:10001"]


def test_every_variable_of_the_image_is_a_setting_and_can_be_used() -> None:
    given = dict(re.findall(r"(DROPGATE_\w+)=(\S+)", stages()["served"]))
    known = {name for each in settings.Settings.__slots__ for name in settings.environment_names(each)}
    assert given.keys() <= known
    chosen = settings.load({}, environment={**given, "DROPGATE_INSECURE": "true"})
    assert (chosen.models_dir, chosen.state_dir, chosen.port) == ("/app/models", "/app/state", 8001)


def test_torch_in_the_image_is_the_one_of_a_checkout() -> None:
    made = re.search(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    image = re.search(r"^ARG TORCH=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert made
    assert image
    assert made[1] == image[1]


def layers(stage: str) -> list[str]:
    """What is laid over what in an image: the stages that it and what it is built on copy from."""
    built_on = {name: base for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}
    below = layers(built_on[stage]) if built_on.get(stage) in stages() else []
    return below + re.findall(r"^COPY --from=(\S+)", stages()[stage], re.MULTILINE)


@pytest.mark.parametrize(("stage", "packages"), [("gateway", "gateway-packages"), ("trainer", "trainer-packages")])
def test_an_edit_of_the_source_builds_the_last_layer_alone(stage: str, packages: str) -> None:
    """torch, the other packages and the source are trees of their own; only the last of them is made of the source."""
    assert layers(stage) == ["installer", packages, "source"]
    for each in ("installer", packages):
        assert not re.search(r"^COPY (?!--from).*\b(gateway|trainer|pyproject\.toml)\b", stages()[each], re.MULTILINE)
    assert re.search(r"--no-deps \.$", stages()["source"], re.MULTILINE)


def test_a_new_revision_builds_no_layer_anew() -> None:
    for stage in ("trainer", "served"):
        assert "REVISION" not in stages()[stage].split("\nARG VERSION=")[0]
    assert [stage for stage, text in stages().items() if "REVISION" in text] == ["trainer", "served"]


@pytest.mark.parametrize(
    ("flavor", "index", "there", "asked"),
    [
        ("cpu", "", True, ["torch==2.13.0+cpu"]),
        ("cpu", "", False, ["torch==2.13.0+cpu", f"--index-url {TORCH}/cpu torch==2.13.0+cpu"]),
        ("cpu", "https://mirror", False, ["torch==2.13.0+cpu", "--index-url https://mirror torch==2.13.0+cpu"]),
        ("cuda", "", True, ["torch===2.13.0"]),
        ("cuda", "https://mirror", True, ["--index-url https://mirror torch===2.13.0"]),
        ("cu126", "", False, ["torch==2.13.0+cu126", f"--index-url {TORCH}/cu126 torch==2.13.0+cu126"]),
    ],
)
def test_a_flavour_is_a_build_of_torch(flavor: str, index: str, there: bool, asked: list[str], tmp_path: Path) -> None:
    """`pip` here finds a build in its first place, or not; it is asked in turn until it does."""
    pip = program(
        tmp_path, "pip", f'echo "$*" >>"{tmp_path}/asked"; [[ "$*" == *--index-url* ]] || exit {int(not there)}'
    )
    done = subprocess.run(["sh", IMAGE / "torch.sh", flavor, "2.13.0", index, pip], capture_output=True, check=False)
    assert done.returncode == 0
    assert (tmp_path / "asked").read_text().splitlines() == asked


@pytest.mark.parametrize(("flavor", "build"), [("cpu", "2.13.0+cpu"), ("cuda", "2.13.0"), ("cu126", "2.13.0+cu126")])
def test_of_a_folder_of_wheels_each_flavour_takes_its_own(flavor: str, build: str, tmp_path: Path) -> None:
    """By the real pip, which takes the build for CPUs where it is asked for 2.13.0 and both are there."""
    for version in ("2.13.0", "2.13.0+cpu", "2.13.0+cu126"):
        _empty_wheel(tmp_path, "torch", version)
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--no-index"]
    command = ["sh", IMAGE / "torch.sh", flavor, "2.13.0", "", *pip, "--find-links", tmp_path]
    environment = {"PATH": BIN, "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"Would install torch-{build}\n" in done.stdout


def _empty_wheel(folder: Path, name: str, version: str) -> None:
    told = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{told}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{told}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{told}/RECORD", "")


@pytest.mark.parametrize("flavor", ["", "gpu", "CUDA", "cu", "cuda12"])
def test_a_flavour_that_there_is_not_fails_the_build(flavor: str, tmp_path: Path) -> None:
    done = subprocess.run(["sh", IMAGE / "torch.sh", flavor, "2.13.0", "", "true"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"expected cpu, cuda" in done.stderr


def test_a_build_of_torch_that_is_nowhere_fails_the_build() -> None:
    done = subprocess.run(["sh", IMAGE / "torch.sh", "cuda", "2.13.0", "", "false"], capture_output=True, check=False)
    assert done.returncode == 1


# --- what goes into it ------------------------------------------------------------------------------------------------


@pytest.fixture
def installed() -> ModuleType:
    return _module("installed")


@pytest.fixture
def dependencies() -> ModuleType:
    return _module("dependencies")


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, IMAGE / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_packages_of_a_layer_are_those_that_the_project_wants(dependencies: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    defaults = dict(re.findall(r"^ARG (EXTRAS|TRAINER_EXTRAS)=(\S+)$", DOCKERFILE, re.MULTILINE))
    for extras in defaults.values():
        found = list(dependencies.wanted(project, extras.split(",")))
        assert set(project["dependencies"]) < set(found)
        for extra in extras.split(","):
            assert set(project["optional-dependencies"][extra]) <= set(found)
    nested = list(dependencies.wanted(project, ["dev"]))
    assert set(project["optional-dependencies"]["ask"]) < set(nested)
    assert not [each for each in nested if each.startswith("dropgate")]


def test_an_extra_that_there_is_not_fails_the_build() -> None:
    command = [sys.executable, IMAGE / "dependencies.py", ROOT / "pyproject.toml", "ask,asks"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "no such extra: asks\n")


def test_a_package_that_two_layers_have_fails_the_build(installed: ModuleType) -> None:
    assert list(installed.twice(["aiohttp", "numpy", "aiohttp"])) == ["aiohttp is installed 2 times"]


def test_a_package_of_another_version_than_locked_fails_the_build(installed: ModuleType) -> None:
    locked = installed.read("aiohttp==3.14.5\nPyYAML==6.0.3\nruamel.yaml==0.19\n")
    own = ("torch", "triton", "cuda-toolkit", "cuda-bindings", "cuda-pathfinder", "nvidia-nccl-cu13", "setuptools")
    same = {"aiohttp": "3.14.5", "pyyaml": "6.0.3", "ruamel-yaml": "0.19", **dict.fromkeys(own, "1")}
    assert list(installed.differences(locked, same)) == []
    (told,) = installed.differences(locked, same | {"aiohttp": "3.15"})
    assert told == "aiohttp==3.15 is installed, and packages.lock says 3.14.5"
    (told,) = installed.differences(locked, same | {"left-pad": "1"})
    assert told.startswith("left-pad==1 is installed, and packages.lock does not name it")


def test_every_direct_dependency_of_the_images_is_locked(installed: ModuleType) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    locked = installed.read((ROOT / "requirements.lock").read_text())
    direct = {installed.normal(name) for name in re.findall(r'^    "([A-Za-z0-9._-]+)[\[=<>]', text, re.MULTILINE)}
    assert len(direct) > 30
    assert direct - locked.keys() - {"torch", "dropgate"} == set()


def test_the_images_lock_is_the_part_of_the_lock_that_images_need(installed: ModuleType) -> None:
    done = subprocess.run([sys.executable, IMAGE / "lock.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    ours = installed.read((IMAGE / "packages.lock").read_text())
    assert ours.items() < installed.read((ROOT / "requirements.lock").read_text()).items()
    assert {"aiohttp", "sentence-transformers", "lancedb", "peft", "boto3", "sympy"} <= ours.keys()
    assert not {"ruff", "mypy", "pytest", "hypothesis", "moto", "torch"} & ours.keys()


@pytest.mark.parametrize(
    ("package", "counts"), [("ruff", False), ("pytest", False), ("aiohttp", True), ("sympy", True)]
)
def test_a_version_that_only_development_wants_builds_no_layer_anew(
    package: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = _module("lock")
    before = lock.made()
    assert (IMAGE / "packages.lock").read_text() == before
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    changed, count = re.subn(
        rf"^{package}==.*$", f"{package}==99", (ROOT / "requirements.lock").read_text(), flags=re.M
    )
    assert count == 1
    (tmp_path / "requirements.lock").write_text(changed)
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    assert (lock.made() != before) == counts


def test_a_package_that_images_want_and_nobody_has_locked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = _module("lock")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text = (ROOT / "requirements.lock").read_text()
    (tmp_path / "requirements.lock").write_text("".join(e for e in text.splitlines(True) if "aiohttp==" not in e))
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    with pytest.raises(LookupError, match="lacks aiohttp"):
        lock.made()


async def test_the_image_is_healthy_while_the_gateway_answers_and_not_after(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    async with RunningGateway(tmp_path / "models", tmp_path / "state") as gateway:
        port = str(urlsplit(gateway.url).port)
        assert await _health(port) == (0, "/healthz answered 200\n")
        assert await _health(port, "/readyz") == (0, "/readyz answered 200\n")
        status, told = await _health(port, "/nowhere")
        assert status == 1
        assert told.startswith("/nowhere answered 404: {")
    with reserved(int(port)):
        status, told = await _health(port)
    assert status == 1
    assert told.startswith(f"no answer on port {port}: ")


async def _health(port: str, *path: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(IMAGE / "health.py"), *path),
        env={**os.environ, "DROPGATE_PORT": port},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


# --- compose ----------------------------------------------------------------------------------------------------------


def test_the_compose_file_follows_the_specification() -> None:
    done = lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
    assert done.returncode == 0, done.stdout


def test_a_misspelt_key_of_the_compose_file_would_be_found(tmp_path: Path) -> None:
    planted = tmp_path / "compose.yml"
    planted.write_text(COMPOSE.read_text().replace("read_only:", "readonly:"))
    done = lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", planted)
    assert done.returncode == 1
    assert "readonly" in done.stdout


def test_each_service_builds_a_stage_that_there_is_or_names_an_image_with_a_tag() -> None:
    for name, service in services().items():
        assert ":" in service["image"], name
        if "build" in service:
            assert service["build"]["target"] in stages(), name
            declared = re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE)
            assert service["build"]["args"].keys() <= set(declared), name


def test_each_variable_of_the_gateway_and_the_trainer_is_one_that_they_read() -> None:
    known = {name for each in settings.Settings.__slots__ for name in settings.environment_names(each)}
    for name in ("gateway", "trainer"):
        assert services()[name]["environment"].keys() - known - OTHERS == set()


def test_the_gateway_takes_its_environment_as_compose_gives_it() -> None:
    given = {key: _default(value) for key, value in services()["gateway"]["environment"].items()}
    image = dict(re.findall(r"(DROPGATE_\w+)=(\S+)", stages()["served"]))
    assert settings.load({}, environment=image | given).insecure


def test_ports_are_published_for_this_machine_alone() -> None:
    for name, service in services().items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_every_file_that_is_mounted_is_there_and_every_volume_is_declared() -> None:
    declared = yaml.safe_load(COMPOSE.read_text())["volumes"].keys()
    made = {"./models", "./data", "./runs"}  # directories of the user's own
    for name, service in services().items():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert source in made or (ROOT / source).is_file(), f"{name}: {source}"
            else:
                assert source in declared, f"{name}: {source}"


@pytest.mark.parametrize("name", ["gateway", "trainer", "prometheus"])
def test_what_is_ours_or_only_looks_has_no_rights(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"]["memory"]


def test_the_container_gives_requests_in_flight_the_time_to_finish() -> None:
    seconds = float(services()["gateway"]["stop_grace_period"].removesuffix("s"))
    assert seconds >= settings.load({}, environment={}).drain_timeout + 10


def test_prometheus_takes_its_configuration_and_scrapes_the_gateway_where_it_is() -> None:
    file = ROOT / "deploy" / "local" / "prometheus.yml"
    (job,) = yaml.safe_load(file.read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["gateway:8001"]}]
    done = lint("promtool", "check", "config", file)
    assert done.returncode == 0, done.stderr


def test_every_variable_of_the_compose_file_is_documented_and_no_other() -> None:
    page = (ROOT / "docs" / "containers.md").read_text()
    table = page.split("| variable | default |", 1)[1].split("\n\n", 1)[0]
    documented = set(re.findall(r"`([A-Z_]+)`", table.replace("`, `", "` `")))
    used = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text())) | {"COMPOSE_OVERRIDE"}
    assert used == documented


def _default(value: str) -> str:
    """What compose makes of `${NAME:-default}` where NAME is unset."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


# --- scripts ----------------------------------------------------------------------------------------------------------


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    done = lint("shellcheck", *sorted((ROOT / "scripts").glob("*.sh")))
    assert done.stdout == ""


@pytest.mark.parametrize("script", ["local-dev.sh", "manage-models.sh"])
def test_every_verb_of_a_script_is_documented_and_no_other(script: str) -> None:
    page = (ROOT / "docs" / "containers.md").read_text()
    head = "| verb |" if script == "manage-models.sh" else f"| verb of `scripts/{script}` |"
    table = page.split(head, 1)[1].split("\n\n", 1)[0]
    documented = set(re.findall(r"`([a-z-]+)", " ".join(line.split("|")[1] for line in table.splitlines()[2:])))
    usage = run(script, "--help").out.split("variables")[0]
    verbs = set(re.findall(r"^  ([a-z-]+)", usage, re.MULTILINE)) - {"-h"}
    assert verbs == documented


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ((), 2, "usage:"),
        (("bake",), 2, "usage:"),
        (("--help",), 0, "usage:"),
        (("baked",), 1, "which model?"),
        (("baked", "/nowhere", "x/y"), 1, "no config.json there"),
    ],
)
def test_the_offline_build_says_what_it_wants(arguments: tuple[str, ...], status: int, told: str) -> None:
    done = run("build-image-offline.sh", *arguments)
    assert done.status == status
    assert told in done.out + done.err
