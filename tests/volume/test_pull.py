"""`gateway pull` against a hub on this machine, with the real client: whole or not at all, and no byte twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from gateway.errors import leaves
from gateway.model import Accepted
from gateway.volume.manifest import judge
from tests import making
from tests.hub import Hub, Mishap, Repository, environment

DEADLINE: Final = 300.0  # seconds; it only ends a test that hangs
MODEL: Final = "acme/tiny-embed"
WEIGHTS: Final = "model.safetensors"
JUNK: Final = {
    "onnx/model.onnx": b"onnx",
    "onnx/config.json": b"{}",
    "openvino/openvino_model.xml": b"<net/>",
    "pytorch_model.bin": b"a pickle",
    "modeling_custom.py": b"import os",
    "tf_model.h5": b"keras",
    "rust_model.ot": b"rust",
    ".gitattributes": b"*.bin filter=lfs",
    "images/plot.png": b"png",
    "checkpoint-1/model.safetensors": b"older",
    "model.fp16.safetensors": b"half",
}


class Ran:
    """What a `gateway pull` said and how it ended."""

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status, self.out, self.err = status, out.decode(), err.decode()

    @property
    def code(self) -> str:
        """The code at the end of its one line of complaint."""
        last = self.err.strip().splitlines()[-1]
        assert last.startswith("gateway: "), self.err
        assert "Traceback" not in self.err
        code = last.rpartition("(")[2].rstrip(")")
        assert code in leaves(), self.err
        return code


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights have about 5 MB."""
    return Path(making.encoder(tmp_path_factory.mktemp("made") / "m", dim=192, layers=3, heads=4))


@pytest.fixture
async def hub(made: Path) -> AsyncIterator[Hub]:
    repository = Repository.of(made)
    repository.files |= JUNK
    async with Hub({MODEL: repository}) as running:
        yield running


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


async def begin(hub: Hub, volume: Path, *arguments: str, **variables: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "gateway", "pull", f"--models-dir={volume}", *arguments]
    pipe = asyncio.subprocess.PIPE
    patient = {"HF_HUB_DOWNLOAD_TIMEOUT": f"{DEADLINE:.0f}"}  # what a hub holds back is not asked for again
    return await asyncio.create_subprocess_exec(
        *command, env=environment(HF_ENDPOINT=hub.url, **patient, **variables), stdout=pipe, stderr=pipe
    )


async def end(process: asyncio.subprocess.Process) -> Ran:
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out, err)


async def pull(hub: Hub, volume: Path, *arguments: str, **variables: str) -> Ran:
    return await end(await begin(hub, volume, *(arguments or (MODEL,)), **variables))


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def assert_whole(directory: Path, made: Path) -> None:
    """It is what was made, its sums hold, and the gateway would serve it."""
    assert names(directory) == names(made) | {"SHA256SUMS", ".pull.json"}
    for name in names(made):
        assert (directory / name).read_bytes() == (made / name).read_bytes()
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=directory, capture_output=True, check=False)
    assert checked.returncode == 0, checked
    assert isinstance(judge(str(directory)), Accepted)


async def test_a_model_is_pulled_whole_with_its_commit_and_sums_and_nothing_else(
    hub: Hub, volume: Path, made: Path
) -> None:
    ran = await pull(hub, volume)
    assert ran.status == 0, ran.err
    assert_whole(volume / MODEL, made)
    record = json.loads((volume / MODEL / ".pull.json").read_text())
    commit = hub.repositories[MODEL].commit
    assert (record["model"], record["revision"], record["commit"]) == (MODEL, "main", commit)
    assert commit in ran.out
    assert not {path for path, _ in hub.asked} & JUNK.keys()
    assert {path.name for path in volume.iterdir()} == {"acme"}, "no staging is left"


async def test_a_connection_that_closes_early_is_resumed_where_it_was(hub: Hub, volume: Path, made: Path) -> None:
    hub.mishaps[WEIGHTS] = [Mishap(after=2_500_000, how="close")]
    ran = await pull(hub, volume)
    assert ran.status == 0, ran.err
    first, second = hub.ranges(WEIGHTS)
    assert first is None
    assert second == f"bytes={2 * 1024**2}-", "all whole chunks that had come are kept"
    assert_whole(volume / MODEL, made)


async def test_a_connection_that_is_reset_again_and_again_is_resumed_each_time(
    hub: Hub, volume: Path, made: Path
) -> None:
    hub.mishaps[WEIGHTS] = [Mishap(after=1_200_000, how="reset")] * 3
    ran = await pull(hub, volume)
    assert ran.status == 0, ran.err
    assert len(hub.ranges(WEIGHTS)) == 4
    assert_whole(volume / MODEL, made)


async def test_a_pull_that_is_killed_publishes_nothing_and_the_next_one_goes_on(
    hub: Hub, volume: Path, made: Path
) -> None:
    hub.mishaps[WEIGHTS] = [Mishap(after=3_500_000, how="hold")]
    process = await begin(hub, volume, MODEL)
    async with asyncio.timeout(DEADLINE):
        await hub.held.wait()
    async with asyncio.timeout(DEADLINE):
        while sum(part.stat().st_size for part in volume.glob(f".pulls/*/*/{WEIGHTS}.incomplete")) < 3 * 1024**2:
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    await end(process)
    assert {path.name for path in volume.iterdir()} == {".pulls"}, "nothing has a model's name"
    before = len(hub.asked)
    ran = await pull(hub, volume)
    assert ran.status == 0, ran.err
    assert hub.asked[before:] == [(WEIGHTS, f"bytes={3 * 1024**2}-")], "what was whole is not fetched again"
    assert_whole(volume / MODEL, made)
    assert not (volume / ".pulls").exists()


async def test_two_processes_never_pull_one_model_at_once(hub: Hub, volume: Path, made: Path) -> None:
    hub.mishaps[WEIGHTS] = [Mishap(after=1_000_000, how="hold")]
    first = await begin(hub, volume, MODEL)
    async with asyncio.timeout(DEADLINE):
        await hub.held.wait()
    second = await pull(hub, volume)
    assert (second.status, second.code) == (1, "pull_in_progress")
    hub.go.set()
    assert (await end(first)).status == 0
    assert_whole(volume / MODEL, made)


async def test_the_same_commit_is_not_pulled_twice(hub: Hub, volume: Path) -> None:
    await pull(hub, volume)
    before = len(hub.asked)
    ran = await pull(hub, volume)
    assert ran.status == 0
    assert ran.out.startswith("there already")
    assert hub.asked[before:] == []


async def test_a_pulled_model_that_lost_a_file_is_pulled_anew(hub: Hub, volume: Path, made: Path) -> None:
    await pull(hub, volume)
    (volume / MODEL / WEIGHTS).unlink()
    assert (await pull(hub, volume)).status == 0
    assert_whole(volume / MODEL, made)


async def test_a_newer_commit_takes_the_place_of_an_older_one_whole(hub: Hub, volume: Path, tmp_path: Path) -> None:
    await pull(hub, volume)
    before = (volume / MODEL).stat().st_ino
    newer = Path(making.encoder(tmp_path / "newer", dim=32, layers=1, seed=5))
    hub.repositories[MODEL] = Repository.of(newer)
    ran = await pull(hub, volume, "--json", MODEL)
    assert json.loads(ran.out)["commit"] == hub.repositories[MODEL].commit
    assert_whole(volume / MODEL, newer)
    assert (volume / MODEL).stat().st_ino != before, "by exchange, not in place"
    assert not (volume / ".pulls").exists()


async def test_a_directory_that_somebody_dropped_is_never_replaced(hub: Hub, volume: Path, made: Path) -> None:
    dropped = making.encoder(volume / MODEL, dim=32, layers=1, seed=9)
    before = hashlib.sha256(Path(dropped, WEIGHTS).read_bytes()).digest()
    ran = await pull(hub, volume)
    assert (ran.status, ran.code) == (1, "pull_conflict")
    assert str(volume / MODEL) in ran.err
    assert hashlib.sha256(Path(dropped, WEIGHTS).read_bytes()).digest() == before
    assert hub.asked == []


async def test_a_revision_is_pulled_by_its_name_or_its_commit(hub: Hub, volume: Path, made: Path) -> None:
    commit = hub.repositories[MODEL].commit
    assert (await pull(hub, volume, f"huggingface:{MODEL}@{commit}")).status == 0
    assert json.loads((volume / MODEL / ".pull.json").read_text())["revision"] == commit
    ran = await pull(hub, volume, f"{MODEL}@no-such-branch")
    assert (ran.status, ran.code) == (1, "hub_revision_not_found")
    assert "no-such-branch" in ran.err
    assert_whole(volume / MODEL, made)


async def test_a_model_without_an_organisation_lies_directly_under_the_root(hub: Hub, volume: Path, made: Path) -> None:
    hub.repositories["tiny"] = Repository.of(made, seed="tiny")
    assert (await pull(hub, volume, "tiny")).status == 0
    assert_whole(volume / "tiny", made)


async def test_a_model_that_is_not_there_is_named(hub: Hub, volume: Path) -> None:
    ran = await pull(hub, volume, "acme/other")
    assert (ran.status, ran.code) == (1, "hub_model_not_found")
    assert "acme/other" in ran.err
    assert list(volume.iterdir()) == []


async def test_a_gated_model_needs_the_token_that_it_was_given(hub: Hub, volume: Path, made: Path) -> None:
    hub.repositories[MODEL].token, hub.repositories[MODEL].gated = "hf_secret", True
    none, wrong = await pull(hub, volume), await pull(hub, volume, HF_TOKEN="hf_other")
    assert none.code == wrong.code == "hub_forbids"
    assert "HF_TOKEN" in none.err
    assert "hf_other" not in wrong.err + wrong.out
    assert (await pull(hub, volume, HF_TOKEN="hf_secret")).status == 0
    assert_whole(volume / MODEL, made)
    assert "hf_secret" not in (volume / MODEL / ".pull.json").read_text()
    assert hub.shown == {None}, "the token is for the hub, not for where it keeps large files"


async def test_a_private_model_looks_like_none_and_the_message_says_so(hub: Hub, volume: Path) -> None:
    hub.repositories[MODEL].token = "hf_secret"
    ran = await pull(hub, volume)
    assert ran.code == "hub_model_not_found"
    assert "private" in ran.err


async def test_offline_means_that_nobody_is_asked(hub: Hub, volume: Path) -> None:
    ran = await pull(hub, volume, HF_HUB_OFFLINE="1")
    assert (ran.status, ran.code) == (1, "hub_offline")
    assert hub.looks == 0


async def test_the_command_line_wins_over_the_librarys_own_reading_of_the_environment(
    hub: Hub, volume: Path, made: Path
) -> None:
    ran = await pull(hub, volume, MODEL, "--hub-offline=false", HF_HUB_OFFLINE="1")
    assert ran.status == 0, ran.err
    assert_whole(volume / MODEL, made)


async def test_a_hub_that_cannot_be_reached_is_named(hub: Hub, volume: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # nobody else takes the port, and nobody listens there
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        ran = await pull(hub, volume, MODEL, f"--hub-endpoint={url}")
    assert (ran.status, ran.code) == (1, "hub_unreachable")
    assert url in ran.err


async def test_a_hub_that_is_ill_is_named_with_its_status(hub: Hub, volume: Path) -> None:
    hub.broken = 500
    ran = await pull(hub, volume)
    assert (ran.status, ran.code) == (1, "hub_failed")
    assert "500" in ran.err


async def test_bytes_that_are_not_those_listed_are_never_published(hub: Hub, volume: Path, made: Path) -> None:
    hub.repositories[MODEL].corrupt = {WEIGHTS}
    ran = await pull(hub, volume)
    assert (ran.status, ran.code) == (1, "hub_failed")
    assert WEIGHTS in ran.err
    assert not (volume / "acme").exists()
    hub.repositories[MODEL].corrupt = {"config.json"}
    assert (await pull(hub, volume)).status == 0, "small files were there and checked already"
    assert_whole(volume / MODEL, made)


async def test_a_small_file_is_checked_too(hub: Hub, volume: Path) -> None:
    hub.repositories[MODEL].corrupt = {"config.json"}
    ran = await pull(hub, volume)
    assert ran.code == "hub_failed"
    assert "config.json" in ran.err


async def test_a_repository_of_pickles_costs_no_bytes_unless_they_are_allowed(
    hub: Hub, volume: Path, tmp_path: Path
) -> None:
    pickled = Path(making.encoder(tmp_path / "pickled", dim=32, layers=1, weights="bin"))
    hub.repositories[MODEL] = Repository.of(pickled)
    ran = await pull(hub, volume)
    assert (ran.status, ran.code) == (1, "nothing_to_serve")
    assert "--allow-pickle" in ran.err
    assert {path for path, _ in hub.asked} == {"modules.json"}
    assert list(volume.iterdir()) == []
    assert (await pull(hub, volume, MODEL, "--allow-pickle")).status == 0
    assert isinstance(judge(str(volume / MODEL), allow_pickle=True), Accepted)


async def test_a_model_that_would_be_refused_costs_no_weights(hub: Hub, volume: Path, tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "own", dim=192, layers=3, config={"model_type": "own"})
    hub.repositories[MODEL] = Repository.of(path)
    ran = await pull(hub, volume)
    assert (ran.status, ran.code) == (1, "nothing_to_serve")
    assert hub.ranges(WEIGHTS) == []
    assert list(volume.iterdir()) == []


async def pull_into_mount(hub: Hub, volume: Path, options: str) -> Ran:
    """Into a real small file system, in a mount namespace of its own; prints what is on it afterwards."""
    mount = f"mount -t tmpfs -o {options} none {volume}"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this kernel lets us mount no small file system")
    command = (
        f"{mount} && {sys.executable} -m gateway pull --models-dir={volume} {MODEL}; s=$?; ls -A {volume}; exit $s"
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *("unshare", "-Urm", "sh", "-c", command), env=environment(HF_ENDPOINT=hub.url), stdout=pipe, stderr=pipe
    )
    return await end(process)


async def test_a_full_volume_is_told_before_the_first_byte_of_weights(hub: Hub, volume: Path) -> None:
    ran = await pull_into_mount(hub, volume, "size=2m")
    assert (ran.status, ran.code) == (1, "volume_full")
    assert "bytes" in ran.err
    assert hub.ranges(WEIGHTS) == []
    assert ran.out.split() == [".pulls"]


async def test_a_volume_that_may_not_be_written_is_named(hub: Hub, volume: Path) -> None:
    ran = await pull_into_mount(hub, volume, "ro")
    assert (ran.status, ran.code) == (1, "volume_unwritable")
    assert str(volume) in ran.err
    assert ran.out == ""


async def test_a_volume_that_fills_up_meanwhile_publishes_nothing_and_is_told(
    hub: Hub, volume: Path, made: Path
) -> None:
    """RLIMIT_FSIZE stands in for a disk that is full in the middle of a file: the same error from the same write."""
    limited = f"ulimit -f 2048; trap '' XFSZ; exec {sys.executable} -m gateway pull --models-dir={volume} {MODEL}"
    pipe = asyncio.subprocess.PIPE
    ran = await end(
        await asyncio.create_subprocess_exec(
            "bash", "-c", limited, env=environment(HF_ENDPOINT=hub.url), stdout=pipe, stderr=pipe
        )
    )
    assert (ran.status, ran.code) == (1, "volume_full")
    assert not (volume / "acme").exists()
    assert (await pull(hub, volume)).status == 0
    assert hub.ranges(WEIGHTS)[-1] == f"bytes={2 * 1024**2}-"
    assert_whole(volume / MODEL, made)


async def test_a_models_directory_that_is_not_there_is_not_made(hub: Hub, tmp_path: Path) -> None:
    ran = await pull(hub, tmp_path / "not-mounted")
    assert (ran.status, ran.code) == (1, "volume_unwritable")
    assert not (tmp_path / "not-mounted").exists()


@pytest.mark.parametrize("spelling", ["../x", "a/b/c", "acme/.hidden", "acme/1_Pooling", "acme/x@..", "acme/x.tmp"])
async def test_what_is_no_name_of_a_model_is_refused(hub: Hub, volume: Path, spelling: str) -> None:
    ran = await pull(hub, volume, spelling)
    assert (ran.status, ran.code) == (1, "invalid_model_id")
    assert hub.looks == 0


async def test_an_endpoint_that_is_none_is_a_wrong_setting(hub: Hub, volume: Path) -> None:
    ran = await pull(hub, volume, MODEL, "--hub-endpoint=hub.example")
    assert ran.status == 2
    assert ran.err.startswith("gateway: --hub-endpoint='hub.example'")


async def test_a_bar_is_shown_on_a_terminal_and_nowhere_else(hub: Hub, volume: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gateway", "pull", f"--models-dir={volume}", MODEL]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, env=environment(HF_ENDPOINT=hub.url), stdout=pipe, stderr=theirs
    )
    out, _ = await process.communicate()
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert process.returncode == 0
    assert out.decode().startswith("pulled: ")
    total = sum(len(content) for path, content in hub.repositories[MODEL].files.items() if path not in JUNK) / 1e6
    assert f"[{'#' * 30}] {total:.1f} of {total:.1f} MB" in shown
    assert (await pull(hub, volume)).err == ""


async def test_what_a_pull_left_a_week_ago_is_freed_by_the_next_one(hub: Hub, volume: Path) -> None:
    for name, age in {"acme--old": 8 * 86400, "acme--young": 6 * 86400}.items():
        (volume / ".pulls" / name / "c0ffee").mkdir(parents=True)
        lock = volume / ".pulls" / name / "lock"
        lock.touch()
        os.utime(lock, (lock.stat().st_mtime - age,) * 2)
    assert (await pull(hub, volume)).status == 0
    assert [path.name for path in (volume / ".pulls").iterdir()] == ["acme--young"]
    shutil.rmtree(volume / ".pulls")
