"""SHA256SUMS, written by the real sha256sum."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.model import ModelId
from gateway.volume import sums
from gateway.volume.directory import Directory
from gateway.volume.evidence import VolumeEvidence
from gateway.volume.reasons import Unfit
from gateway.volume.source import scan
from gateway.volume.sums import Checked, Sums, parse

ZERO = "0" * 64


@pytest.fixture
def model(tmp_path: Path) -> Path:
    model = tmp_path / "finetuned/m"
    (model / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "1_Pooling/config.json", "README.md", "my notes.txt"):
        (model / name).write_text(name)
    return model


def look(model: Path) -> Directory:
    return scan(str(model.parents[1])).directories[ModelId("finetuned", "m")]


def check(model: Path) -> Checked:
    return Sums(str(model.parents[1])).check(look(model))


def write_sums(model: Path, options: str = "") -> None:
    command = f"find . -type f ! -name SHA256SUMS -printf '%P\\0' | sort -z | xargs -0 sha256sum {options} > SHA256SUMS"
    subprocess.run(["sh", "-c", command], cwd=model, check=True)


def code(checked: Checked) -> tuple[str, str | None]:
    assert checked.reason is not None
    return checked.reason.code, checked.reason.file


@pytest.mark.parametrize("options", ["", "--binary"])
def test_what_sha256sum_writes_proves_the_directory_whole(model: Path, options: str) -> None:
    assert check(model) == Checked()
    write_sums(model, options)
    assert check(model) == Checked(verified=True)


def test_names_that_begin_with_a_dot_and_a_slash_are_the_same_names(model: Path) -> None:
    subprocess.run(
        "find . -type f ! -name SHA256SUMS | xargs -d '\\n' sha256sum > SHA256SUMS", cwd=model, shell=True, check=True
    )
    assert check(model) == Checked(verified=True)


def test_a_file_of_another_content_is_named(model: Path) -> None:
    write_sums(model)
    (model / "model.safetensors").write_text("model.safetensorz")
    checked = check(model)
    assert not checked.verified
    assert code(checked) == ("checksum_mismatch", "model.safetensors")


def test_a_listed_file_that_is_not_there_is_named(model: Path) -> None:
    write_sums(model)
    (model / "1_Pooling/config.json").unlink()
    assert code(check(model)) == ("checksum_mismatch", "1_Pooling/config.json")


@pytest.mark.parametrize(
    ("name", "covered"), [("tokenizer.json", False), ("model_metadata.json", True), ("x.png", True)]
)
def test_a_list_that_leaves_a_model_file_out_proves_nothing(model: Path, name: str, covered: bool) -> None:
    write_sums(model)
    (model / name).write_text("later")
    assert check(model) == Checked(verified=covered)


def test_hidden_files_and_checkpoints_may_be_listed_and_left_behind(model: Path) -> None:
    (model / ".gitattributes").write_text("x")
    (model / "checkpoint-5").mkdir()
    (model / "checkpoint-5/model.safetensors").write_text("x")
    write_sums(model)
    (model / ".gitattributes").unlink()
    (model / "checkpoint-5/model.safetensors").unlink()
    assert check(model) == Checked(verified=True)


@pytest.mark.parametrize(
    "line",
    [
        f"{ZERO}  /etc/passwd",
        f"{ZERO}  ../../etc/passwd",
        f"{ZERO}  a/../../b",
        f"{ZERO}  .",
        f"\\{ZERO}  a\\nb",
        f"{ZERO[:40]}",
        f"{ZERO} config.json",
        f"SHA256 (config.json) = {ZERO}",
        "",
        "\x00\xff",
    ],
)
def test_lines_that_lead_elsewhere_or_are_cut_short_are_refused(line: str) -> None:
    with pytest.raises(Unfit) as refused:
        parse(f"{ZERO}  config.json\n{line}\n{ZERO}  x".encode())
    assert refused.value.reason.code == "checksum_mismatch"
    assert "line 2" in refused.value.reason.message


def test_an_empty_list_proves_nothing(model: Path) -> None:
    (model / "SHA256SUMS").write_text("")
    assert code(check(model)) == ("checksum_mismatch", "SHA256SUMS")


def test_a_list_that_is_no_regular_file_or_too_large_is_refused_unread(model: Path) -> None:
    os.mkfifo(model / "SHA256SUMS")
    assert code(check(model)) == ("not_a_file", "SHA256SUMS")
    (model / "SHA256SUMS").unlink()
    with open(model / "SHA256SUMS", "wb") as stream:
        stream.truncate(sums.CAP + 1)
    assert code(check(model)) == ("file_too_large", "SHA256SUMS")


def test_a_file_is_hashed_once_for_each_of_its_states(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sums(model)
    hashed: list[str] = []
    real = sums._sha256

    def counting(descriptor: int) -> str:
        hashed.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), model))
        return real(descriptor)

    monkeypatch.setattr(sums, "_sha256", counting)
    checker = Sums(str(model.parents[1]))
    assert checker.check(look(model)).verified
    assert len(hashed) == 5
    assert checker.check(look(model)).verified
    assert len(hashed) == 5
    (model / "model.safetensors").write_text("half")
    assert checker.check(look(model)).reason
    assert checker.check(look(model)).reason
    assert hashed[5:] == ["model.safetensors"]
    known = look(model).file("config.json")
    assert known is not None
    assert checker.known(look(model), known) == parse((model / "SHA256SUMS").read_bytes())["config.json"]


def test_what_a_directory_held_before_is_forgotten_however_often_it_is_replaced(model: Path) -> None:
    checker = Sums(str(model.parents[1]))
    for number in range(20):
        before = look(model)
        (model / "model.safetensors").write_text(f"weights {number} and so on")
        write_sums(model)
        assert checker.check(look(model)).verified
        changed = before.file("model.safetensors")
        assert changed is not None
        assert checker.known(before, changed) is None
        assert len(checker._known[look(model).path]) == 5


def test_of_more_directories_than_are_remembered_the_first_ones_go(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "REMEMBERED", 2)
    write_sums(model)
    for name in ("n", "o", "p"):
        shutil.copytree(model, model.with_name(name))
    checker = Sums(str(model.parents[1]))
    directories = scan(str(model.parents[1])).directories
    assert all(checker.check(directory).verified for directory in directories.values())
    assert len(checker._known) == 2


def test_the_evidence_finds_holes_in_files_that_have_their_size_before_their_content(model: Path) -> None:
    evidence = VolumeEvidence(str(model.parents[1]))
    os.mkfifo(model / "odd")
    (model / "link").symlink_to("/etc/passwd")
    (model / "empty").write_text("")
    assert evidence.hole(look(model)) is None
    with open(model / "model.safetensors", "wb") as stream:
        stream.truncate(1024 * 1024)
        stream.write(b"x" * 65536)
        stream.flush()
        assert evidence.hole(look(model)) == "model.safetensors"
        stream.write(b"x" * (1024 * 1024 - 65536))
    assert evidence.hole(look(model)) is None
