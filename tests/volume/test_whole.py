"""Scan, settle and judge together, against real writers: what is believed is always one whole version."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.model import Accepted, ModelId, Verdict
from gateway.settings import Settings
from gateway.volume.directory import Directory
from gateway.volume.evidence import VolumeEvidence
from gateway.volume.manifest import judge
from gateway.volume.settle import Observation, Settler
from gateway.volume.source import scan
from gateway.volume.writers import find
from tests import families, making

MODEL = ModelId("finetuned", "m")


class Eyes:
    """The real parts on a real directory. Time is ours; the wall clock is real, so that its age is not believed."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.settler = Settler(Settings(), VolumeEvidence(self.root))
        self.now = time.monotonic()
        self.served: int | None = None
        self.believed: str | None = None
        self.verdict: Verdict | None = None
        self._judged = ""
        self.look()
        self.now += 100  # from here on the two clocks have parted

    def look(self, after: float = 0.0) -> Observation | None:
        """One look; a directory that has settled anew is judged, and what is accepted is `believed`."""
        self.now += after
        snapshot = self.settler.observe(scan(self.root), now=self.now, wall=time.time(), served={MODEL: self.served})
        seen = snapshot.observations.get(MODEL)
        if seen and seen.settled and not seen.reason and seen.directory.fingerprint != self._judged:
            self._judged = seen.directory.fingerprint
            self._judge(seen.directory)
        return seen

    def _judge(self, directory: Directory) -> None:
        self.verdict = judge(directory.path, root=self.root)
        if isinstance(self.verdict, Accepted):
            self.believed = digest(directory.path, self.verdict.manifest.files)
            self.served = directory.inode


def digest(path: str, files: tuple[str, ...]) -> str:
    listed = [f"{name} {hashlib.sha256(Path(path, name).read_bytes()).hexdigest()}" for name in files]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models of the same shape, whose mixtures are whole by their structure and answer garbage."""
    base = tmp_path_factory.mktemp("versions")
    other = {"words": families.WORDS[::-1], "max_tokens": 32, "prompts": {"query": "query: "}}
    return {
        "v1": Path(making.encoder(base / "v1", seed=1)),
        "v2": Path(making.encoder(base / "v2", seed=2, **other)),
    }


def whole(version: Path) -> str:
    verdict = judge(str(version))
    assert isinstance(verdict, Accepted)
    return digest(str(version), verdict.manifest.files)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "models/finetuned").mkdir(parents=True)
    return tmp_path / "models"


def pieces(version: Path, chance: random.Random) -> Iterator[tuple[str, bytes, bool]]:
    """(name, bytes, whether they begin the file), in the order of some copying tool."""
    names = sorted(str(path.relative_to(version)) for path in version.rglob("*") if path.is_file())
    if chance.random() < 0.5:
        chance.shuffle(names)
    for name in names:
        content = (version / name).read_bytes()
        cut = chance.randrange(len(content) + 1) if chance.random() < 0.5 else len(content)
        yield name, content[:cut], True
        if cut < len(content):
            yield name, content[cut:], False


@pytest.mark.parametrize("seed", range(12))
def test_no_mixture_is_believed_of_a_copy_that_nobody_sees_and_that_stalls_for_less_than_the_quiet_time(
    root: Path, versions: dict[str, Path], seed: int
) -> None:
    chance = random.Random(seed)
    eyes = Eyes(root)
    for name, quiet in (("v1", 1.0), ("v2", 10.0)):  # a new directory, then an update in place
        allowed = {eyes.believed, whole(versions[name])}
        for file, content, begins in pieces(versions[name], chance):
            target = root / "finetuned/m" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "wb" if begins else "ab") as stream:  # ours: our own process is never a seen writer
                stream.write(content)
            for _ in range(chance.randrange(1, 4)):
                eyes.look(chance.uniform(0, quiet / 3.01))
                assert eyes.believed in allowed
        eyes.look()
        eyes.look(quiet)
        assert eyes.believed == whole(versions[name])


@pytest.mark.parametrize("seed", range(6))
def test_the_tar_of_kubectl_cp_may_stall_for_minutes_between_any_two_files_of_an_update(
    root: Path, versions: dict[str, Path], seed: int
) -> None:
    eyes = Eyes(root)
    shutil.copytree(versions["v1"], root / "finetuned/m")
    eyes.look()
    eyes.look(1)
    first = eyes.believed
    assert first == whole(versions["v1"])
    archive, ends = packed(versions["v2"])
    command = ["tar", "-b1", "-xmf", "-", "-C", str(root / "finetuned")]  # -b1: a stall is where we make it
    with subprocess.Popen(command, stdin=subprocess.PIPE) as tar:
        assert tar.stdin
        sent = 0
        for end, name in sorted(random.Random(seed).sample(ends[:-1], 3)):
            before = (root / "finetuned/m" / name).stat()
            tar.stdin.write(archive[sent:end])
            tar.stdin.flush()
            sent = end
            until_extracted(root, versions["v2"], name, before)
            for _ in range(3):
                seen = eyes.look(60)
                assert seen is not None
                assert seen.waiting == f"writer pid {tar.pid} (tar)"
                assert eyes.believed == first
        tar.communicate(archive[sent:])
    assert tar.returncode == 0
    eyes.look()
    eyes.look(0.3)
    eyes.look(10)
    assert eyes.believed == whole(versions["v2"])


def packed(version: Path) -> tuple[bytes, list[tuple[int, str]]]:
    """An archive as kubectl makes it, and where each of its files ends."""
    buffer, ends = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(version.rglob("*")):
            if path.is_file():
                name = str(path.relative_to(version))
                archive.add(path, f"m/{name}")
                ends.append((buffer.tell(), name))
    return buffer.getvalue(), ends


def until_extracted(root: Path, version: Path, name: str, before: os.stat_result) -> None:
    """Until tar has replaced and closed the file; then it holds nothing but its destination."""
    deadline = time.monotonic() + 300  # it only ends a test that hangs
    while not replaced(root / "finetuned/m" / name, (version / name).read_bytes(), before) or writes(root):
        assert time.monotonic() < deadline
        os.sched_yield()


def replaced(target: Path, content: bytes, before: os.stat_result) -> bool:
    try:
        return target.stat().st_ctime_ns > before.st_ctime_ns and target.read_bytes() == content
    except FileNotFoundError:  # tar has removed the old one
        return False


def writes(root: Path) -> bool:
    return any(writer.held == "file" for writer in find(str(root)))


def test_a_copy_that_was_broken_off_is_rejected_by_name_and_healed_by_the_rest(
    root: Path, versions: dict[str, Path]
) -> None:
    eyes = Eyes(root)
    shutil.copytree(versions["v1"], root / "finetuned/m")
    os.truncate(root / "finetuned/m/model.safetensors", 1000)
    eyes.look()
    eyes.look(1)
    assert eyes.believed is None
    assert eyes.verdict is not None
    assert not isinstance(eyes.verdict, Accepted)
    assert {(reason.kind, reason.file) for reason in eyes.verdict.reasons} == {("incomplete", "model.safetensors")}
    shutil.copy(versions["v1"] / "model.safetensors", root / "finetuned/m")
    eyes.look()
    eyes.look(1)
    assert eyes.believed == whole(versions["v1"])


def test_sums_make_an_update_in_place_believed_on_its_last_byte_and_never_before(
    root: Path, versions: dict[str, Path], tmp_path: Path
) -> None:
    eyes = Eyes(root)
    shutil.copytree(versions["v1"], root / "finetuned/m")
    eyes.look()
    eyes.look(1)
    update = Path(shutil.copytree(versions["v2"], tmp_path / "v2"))
    names = sorted(str(path.relative_to(update)) for path in update.rglob("*") if path.is_file())
    subprocess.run(f"sha256sum {' '.join(names)} > SHA256SUMS", shell=True, cwd=update, check=True)
    names.append(names.pop(names.index("model.safetensors")))  # the one that differs comes last
    first = eyes.believed
    for name in ["SHA256SUMS", *names]:
        assert eyes.believed == first
        shutil.copy(update / name, root / "finetuned/m" / name)
        eyes.look()
        seen = eyes.look(0.1)
        if name != names[-1]:
            seen = eyes.look(60)
            assert seen is not None
            assert seen.reason is not None
            assert seen.reason.code == "checksum_mismatch"
            assert seen.reason.file in names
    assert eyes.believed == whole(versions["v2"])
