"""`scripts/deploy-model.sh` with the real kubectl, against the tests' API server and a gateway that runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import pytest_asyncio

from tests import making
from tests.kube import DEADLINE, Finished, KubeServer, require_kubectl
from tests.running import RunningGateway, descendants

SCRIPT: Final = Path(__file__).parents[2] / "scripts" / "deploy-model.sh"
MODEL: Final = "huggingface:finetuned/physics"
NAME: Final = "finetuned/physics"
TEXTS: Final = ["a beam of electrons", "a"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module", autouse=True)
def _kubectl() -> None:
    require_kubectl()


class Pod:
    """A gateway, its volume, and commands as they are found in its container."""

    def __init__(self, folder: Path, gateway: RunningGateway, volume: Path) -> None:
        self.folder = folder
        self.gateway = gateway
        self.volume = volume
        commands = folder / "bin"
        commands.mkdir()
        command = commands / "gateway"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gateway "$@"\n')
        command.chmod(0o755)
        self.environment = {"PATH": f"{commands}:{os.environ['PATH']}", "DROPGATE_URL": gateway.url}

    def server(self, folder: Path, *, stall_after: int | None = None) -> KubeServer:
        return KubeServer(folder, stall_after=stall_after, environment=self.environment)

    def seen(self) -> list[str]:
        """Everything on the volume, hidden or not."""
        return sorted(str(path.relative_to(self.volume)) for path in self.volume.rglob("*"))

    def hidden(self) -> list[str]:
        return [name for name in self.seen() if "/." in name]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pod(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pod]:
    base = tmp_path_factory.mktemp("pod")
    (base / "models/finetuned").mkdir(parents=True)
    async with RunningGateway(base / "models", base / "state", "--device=cpu") as running:
        yield Pod(base, running, base / "models")


async def start(pod: Pod, kube: KubeServer, *arguments: str | Path, **variables: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, **pod.environment, "KUBECONFIG": str(kube.kubeconfig), **variables}
    environment.pop("DROPGATE_URL")  # that is the pod's
    return await asyncio.create_subprocess_exec(
        *("env", "--default-signal=INT", str(SCRIPT)),  # whoever runs the tests may have had it ignored
        *map(str, arguments),
        "--models-dir",
        str(pod.volume),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def finished(process: asyncio.subprocess.Process) -> Finished:
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


async def deploy(pod: Pod, kube: KubeServer, *arguments: str | Path, **variables: str) -> Finished:
    return await finished(await start(pod, kube, *arguments, **variables))


async def test_a_model_is_put_onto_the_volume_and_is_served_when_the_script_ends(pod: Pod, tmp_path: Path) -> None:
    source = Path(making.encoder(tmp_path / "physics", seed=1))
    (source / ".cache").mkdir()
    (source / ".cache/leftover").write_text("no part of the model")
    (source / "checkpoint-10").mkdir()
    (source / "checkpoint-10/optimizer.pt").write_text("no part of the model")
    async with pod.server(tmp_path) as kube:
        done = await deploy(pod, kube, source, NAME)
    assert done.status == 0, done.err
    assert done.out.startswith(f"{MODEL}: ")
    shown = (await pod.gateway.models())[MODEL]
    assert shown["state"] in {"ready", "loading", "loaded"}
    assert shown["generation"] in done.out
    vectors, generation = await pod.gateway.embed(TEXTS, MODEL)
    assert generation == shown["generation"]
    assert np.isfinite(vectors).all()
    sums = (pod.volume / NAME / "SHA256SUMS").read_text()
    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet"], input=sums, cwd=pod.volume / NAME, text=True, check=False
    )
    assert checked.returncode == 0
    assert "model.safetensors" in sums
    assert not (pod.volume / NAME / "checkpoint-10").exists()
    assert pod.hidden() == []


async def test_another_model_of_the_name_replaces_it_and_what_is_served_is_the_new_one(
    pod: Pod, tmp_path: Path
) -> None:
    source = making.encoder(tmp_path / "second", seed=2)
    async with pod.server(tmp_path) as kube:
        assert (await deploy(pod, kube, making.encoder(tmp_path / "first", seed=1), "finetuned/twice")).status == 0
        _, old = await pod.gateway.embed(TEXTS, "finetuned/twice")
        done = await deploy(pod, kube, source, "finetuned/twice", "--selector", "app.kubernetes.io/name=dropgate")
    assert done.status == 0, done.err
    _, new = await pod.gateway.embed(TEXTS, "finetuned/twice")
    assert new != old
    assert new in done.out
    assert pod.hidden() == []
    assert not (pod.volume / "finetuned/twice/second").exists()  # no copy inside the copy


OLDER_MV: Final = """#!/bin/sh
[ "$2" != --exchange ] || exit 1
exec {real} "$@"
"""
NEWER_MV: Final = """#!{python}
import ctypes, os, sys
if "--exchange" not in sys.argv:
    os.execv("{real}", ["mv", *sys.argv[1:]])
one, other = (os.fsencode(each) for each in sys.argv[-2:])
sys.exit(-ctypes.CDLL(None).renameat2(-100, one, -100, other, 2))
"""


@pytest.mark.parametrize("script", [OLDER_MV, NEWER_MV], ids=["older", "newer"])
async def test_a_model_is_replaced_by_one_exchange_or_where_mv_cannot_by_two_renames(
    script: str, pod: Pod, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """coreutils can since 9.5."""
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "mv").write_text(script.format(real=shutil.which("mv"), python=sys.executable))
    (commands / "mv").chmod(0o755)
    variables = {**pod.environment, "PATH": f"{commands}:{pod.environment['PATH']}"}
    name = f"finetuned/{request.node.callspec.id}"
    first, second = (making.encoder(tmp_path / each, seed=seed) for seed, each in enumerate(("one", "two")))
    async with KubeServer(tmp_path, environment=variables) as kube:
        assert (await deploy(pod, kube, first, name)).status == 0
        _, old = await pod.gateway.embed(TEXTS, name)
        done = await deploy(pod, kube, second, name)
    assert done.status == 0, done.err
    assert (await pod.gateway.embed(TEXTS, name))[1] != old
    assert sorted(path.name for path in (pod.volume / name).iterdir()) == sorted(["SHA256SUMS", *os.listdir(second)])
    assert pod.hidden() == []


async def test_the_same_content_again_is_served_at_once(pod: Pod, tmp_path: Path) -> None:
    source = making.encoder(tmp_path / "same", seed=3)
    async with pod.server(tmp_path) as kube:
        first = await deploy(pod, kube, source, "finetuned/same")
        second = await deploy(pod, kube, source, "finetuned/same", "--pod", "gateway-0", "--namespace", "models")
    assert (first.status, second.status) == (0, 0), second.err
    assert first.out.split()[-1] == second.out.split()[-1]


async def test_what_would_not_be_served_is_told_here_and_nothing_is_copied(pod: Pod, tmp_path: Path) -> None:
    source = Path(making.encoder(tmp_path / "broken", seed=1))
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    before = pod.seen()
    async with pod.server(tmp_path) as kube:
        done = await deploy(pod, kube, source, "finetuned/broken")
    assert done.status == 1
    assert "weights_truncated" in done.err
    assert "remedy:" in done.err
    assert "nothing was copied" in done.err
    assert pod.seen() == before


async def test_what_the_pod_finds_wanting_never_gets_its_name(pod: Pod, tmp_path: Path) -> None:
    """An adapter is judged there, and its base is not there."""
    source = making.adapter(tmp_path / "adapter", base="base/missing")
    async with pod.server(tmp_path) as kube:
        done = await deploy(pod, kube, source, "finetuned/adapted")
    assert done.status == 1
    assert "base_missing" in done.err
    assert "remedy:" in done.err
    assert not (pod.volume / "finetuned/adapted").exists()
    assert pod.hidden() == []


async def test_a_model_that_is_refused_after_all_is_told_with_its_reason_and_the_old_one_goes_on(
    pod: Pod, tmp_path: Path
) -> None:
    """Its golden vectors are another model's, which only loading it shows."""
    good = making.encoder(tmp_path / "good", seed=1)
    other = Path(making.encoder(tmp_path / "other", seed=2))
    async with pod.server(tmp_path) as kube:
        assert (await deploy(pod, kube, good, "finetuned/held")).status == 0
        vectors, generation = await pod.gateway.embed(TEXTS, "finetuned/held")
        golden = {"texts": TEXTS, "vectors": vectors.tolist()}
        (other / "model_metadata.json").write_text(json.dumps({"golden": golden}))
        done = await deploy(pod, kube, other, "finetuned/held")
    assert done.status == 1
    assert "golden" in done.err
    assert "remedy:" in done.err
    assert f"{generation} goes on serving" in done.err
    assert (await pod.gateway.embed(TEXTS, "finetuned/held"))[1] == generation


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_copy_leaves_nothing_behind(pod: Pod, tmp_path: Path, number: signal.Signals) -> None:
    source = making.encoder(tmp_path / "cut", seed=1)
    before = pod.seen()
    async with pod.server(tmp_path, stall_after=20_000) as kube:
        process = await start(pod, kube, source, "finetuned/cut")
        await kube.until_stalled()
        assert [name for name in pod.hidden() if "/.incoming-" in name]
        assert not (pod.volume / "finetuned/cut").exists()
        process.send_signal(number)
        kube.release()
        done = await finished(process)
    assert done.status == 128 + number
    assert pod.seen() == before


async def test_a_copy_whose_client_is_killed_never_gets_a_name_and_is_swept_a_day_later(
    pod: Pod, tmp_path: Path
) -> None:
    source = making.encoder(tmp_path / "killed", seed=1)
    async with pod.server(tmp_path, stall_after=20_000) as kube:
        process = await start(pod, kube, source, "finetuned/killed")
        await kube.until_stalled()
        for pid in [process.pid, *descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError):  # its tar may have read all there is
                os.kill(pid, signal.SIGKILL)
        await process.wait()
        kube.release()
    assert not (pod.volume / "finetuned/killed").exists()
    left = [path for path in (pod.volume / "finetuned").iterdir() if path.name.startswith(".incoming-")]
    assert left
    for path in left:
        os.utime(path, (0, 0))
    async with pod.server(tmp_path) as kube:
        assert (await deploy(pod, kube, source, "finetuned/killed")).status == 0
    assert pod.hidden() == []


async def test_numbered_versions_are_not_replaced_by_accident(pod: Pod, tmp_path: Path) -> None:
    making.encoder(pod.volume / "finetuned/numbered/3", seed=1)
    async with pod.server(tmp_path) as kube:
        done = await deploy(pod, kube, making.encoder(tmp_path / "plain", seed=2), "finetuned/numbered")
    assert done.status == 1
    assert "numbered versions" in done.err
    assert sorted(path.name for path in (pod.volume / "finetuned/numbered").iterdir()) == ["3"]
    assert pod.hidden() == []


async def test_a_gateway_with_keys_is_asked_with_the_key_that_no_command_line_shows(tmp_path: Path) -> None:
    (tmp_path / "models/finetuned").mkdir(parents=True)
    made = subprocess.run(
        [sys.executable, "-m", "gateway", "keys", "create", "me", "--state-dir", tmp_path / "state"],
        capture_output=True,
        text=True,
        check=True,
    )
    key = made.stdout.split()[0]
    source = making.encoder(tmp_path / "mine", seed=1)
    async with RunningGateway(tmp_path / "models", tmp_path / "state", "--device=cpu") as running:
        pod = Pod(tmp_path, running, tmp_path / "models")
        async with pod.server(tmp_path) as kube:
            refused = await deploy(pod, kube, source, "finetuned/mine")
            done = await deploy(pod, kube, source, "finetuned/mine", DROPGATE_API_KEY=key)
            told = list(kube.commands)
    assert refused.status == 1
    assert "unauthenticated" in refused.err
    assert done.status == 0, done.err
    assert told
    assert not [command for command in told if key in " ".join(command)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "usage:"),
        (["DIRECTORY"], "usage:"),
        (["/nowhere", NAME], "/nowhere is not a directory"),
        (["DIRECTORY", "physics"], "NAMESPACE/NAME"),
        (["DIRECTORY", "a/b/c"], "NAMESPACE/NAME"),
        (["DIRECTORY", "../x"], "NAMESPACE/NAME"),
        (["DIRECTORY", "a/$(id)"], "NAMESPACE/NAME"),
        (["DIRECTORY", NAME, "--timeout", "soon"], "--timeout soon"),
        (["DIRECTORY", NAME, "--timeout"], "--timeout needs a value"),
        (["DIRECTORY", NAME, "--unknown"], "--unknown"),
        (["DIRECTORY", NAME, "more"], "more"),
    ],
)
async def test_wrong_usage_exits_2_and_is_named(arguments: list[str], named: str, tmp_path: Path) -> None:
    given = [str(tmp_path) if each == "DIRECTORY" else each for each in arguments]
    done = subprocess.run([SCRIPT, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert named in done.stderr


async def test_without_a_pod_of_these_labels_the_message_says_what_to_look_at(pod: Pod, tmp_path: Path) -> None:
    source = making.encoder(tmp_path / "nobody", seed=1)
    async with pod.server(tmp_path) as kube:
        done = await deploy(pod, kube, source, "finetuned/nobody", "--selector", "app=other")
    assert done.status == 1
    assert "no pod with the labels app=other runs" in done.err


async def test_a_models_directory_that_the_pod_does_not_have_is_named(pod: Pod, tmp_path: Path) -> None:
    source = making.encoder(tmp_path / "lost", seed=1)
    elsewhere = Pod(tmp_path, pod.gateway, tmp_path / "elsewhere")
    async with pod.server(tmp_path) as kube:
        done = await deploy(elsewhere, kube, source, "finetuned/lost")
    assert done.status == 1
    assert f"there is no {tmp_path / 'elsewhere'} in the pod" in done.err


async def test_the_script_is_clean_for_shellcheck() -> None:
    checker = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([checker, SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
