"""Who is writing: real processes, doing what `kubectl cp`, a shell and a reader do."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.model import ModelId
from gateway.volume import writers
from gateway.volume.directory import Directory
from gateway.volume.source import scan
from gateway.volume.writers import Writer, find, writing

LONG_AGO = 1.0  # 1970: before any process began
pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's /proc")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    for name in ("m", "other"):
        (root / "finetuned" / name / "1_Pooling").mkdir(parents=True)
        (root / "finetuned" / name / "config.json").write_text("{}")
    return root


def model(root: Path, name: str = "m") -> Directory:
    return scan(str(root)).directories[ModelId("finetuned", name)]


def changed(directory: Directory) -> float:
    return directory.newest_ctime_ns / 1e9


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has begun; Popen returns when the command is executing."""
    process = subprocess.Popen(command, **{"stdin": subprocess.DEVNULL, **options})
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def sleeping(**options: Any) -> Any:
    return running(["sleep", "600"], **options)


def seen(root: Path, name: str = "m", since: float | None = None) -> Writer | None:
    directory = model(root, name)
    return writing(directory, find(str(root)), changed(directory) if since is None else since)


def half_an_archive(*names: str) -> bytes:
    """All of the files but the last, of which a half is there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 100_000
            archive.addfile(entry, io.BytesIO(os.urandom(entry.size)))
    return buffer.getvalue()[: (len(names) - 1) * 100_864 + 51_200]


@contextmanager
def tar_stalled(root: Path, *names: str) -> Iterator[subprocess.Popen[bytes]]:
    """`kubectl cp`'s own command in the pod, stopped in the middle of the last file."""
    command = ["tar", "-xvmf", "-", "-C", str(root / "finetuned")]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tar:
        assert tar.stdin
        assert tar.stdout
        tar.stdin.write(half_an_archive(*names))
        tar.stdin.flush()
        for name in names:
            assert tar.stdout.readline() == name.encode() + b"\n"
        yield tar


def test_nobody_writes_to_a_volume_that_nobody_touches(root: Path) -> None:
    assert find(str(root)) == []


def test_we_do_not_see_ourselves(root: Path) -> None:
    with open(root / "finetuned/m/config.json", "a"):
        assert find(str(root)) == []


def test_a_file_open_for_writing_anywhere_below_the_model_is_a_writer(root: Path) -> None:
    with open(root / "finetuned/m/1_Pooling/config.json", "wb") as target, sleeping(stdout=target) as process:
        writer = seen(root)
        assert writer is not None
        assert (writer.pid, writer.name, writer.held, writer.precise) == (process.pid, "sleep", "file", True)
        assert str(writer) == f"pid {process.pid} (sleep)"
        assert abs(writer.started - time.time()) < 600
        assert seen(root, "other") is None
    assert seen(root) is None


def test_a_reader_is_no_writer(root: Path) -> None:
    with open(root / "finetuned/m/config.json", "rb") as source, sleeping(stdin=source):
        assert seen(root) is None


def test_the_tar_of_kubectl_cp_is_seen_while_it_stalls_between_two_files(root: Path) -> None:
    with tar_stalled(root, "m/config.json", "m/model.safetensors") as tar:
        writer = seen(root)
        assert writer is not None
        assert (writer.pid, writer.name, writer.precise) == (tar.pid, "tar", True)
    assert seen(root) is None


def test_a_tar_that_writes_one_model_does_not_hold_back_another(root: Path) -> None:
    with tar_stalled(root, "m/config.json", "m/model.safetensors"):
        (root / "finetuned/other/config.json").write_text("{ }")  # changed since: by somebody else
        deadline = time.monotonic() + 300
        while not any(writer.held == "file" for writer in find(str(root))):  # tar names a file and then opens it
            assert time.monotonic() < deadline
            os.sched_yield()
        assert seen(root) is not None
        assert seen(root, "other") is None


def test_a_directory_held_above_the_model_counts_only_for_what_changed_since(root: Path) -> None:
    held = os.open(root / "finetuned", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with sleeping(pass_fds=[held]):
            assert seen(root, since=LONG_AGO) is None
            (root / "finetuned/m/config.json").write_text("{ }")
            assert seen(root) is not None
            assert seen(root, "other", since=LONG_AGO) is None
    finally:
        os.close(held)


def test_a_directory_held_open_without_anything_to_write_is_no_sure_writer(root: Path) -> None:
    held = os.open(root / "finetuned/m", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with sleeping(pass_fds=[held]):
            writer = seen(root, since=LONG_AGO)
            assert writer is not None
            assert writer.held == "directory"
            assert not writer.precise
    finally:
        os.close(held)


def test_a_working_directory_counts_only_when_something_is_fed_in(root: Path) -> None:
    place = root / "finetuned"
    with sleeping(cwd=place):
        assert find(str(root)) == []
    with sleeping(cwd=place, stdin=subprocess.PIPE) as process:  # busybox tar
        (place / "m/config.json").write_text("{ }")
        writer = seen(root)
        assert writer is not None
        assert (writer.pid, writer.held) == (process.pid, "cwd")
        assert seen(root, since=LONG_AGO) is None


def test_a_shell_that_stands_in_the_volume_holds_nothing_back(root: Path) -> None:
    command = ["bash", "-c", "echo here; read line"]
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(command, cwd=root / "finetuned/m", **options) as shell:
        assert shell.stdout
        assert shell.stdout.readline() == b"here\n"
        (root / "finetuned/m/config.json").write_text("{ }")
        assert seen(root) is None


def test_a_name_that_is_made_to_confuse_a_log_is_shown_in_ascii(root: Path) -> None:
    code = "import sys; open('/proc/self/comm','wb').write(b'a\\nb\\xff'); print('ok', flush=True); sys.stdin.read()"
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running([sys.executable, "-c", code], cwd=root, **options) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ok\n"
        (found,) = find(str(root))
        assert found.name == "a\\nb\\ufffd"


def test_without_a_proc_nobody_is_seen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "PROC", str(root / "nowhere"))
    assert find(str(root)) == []
