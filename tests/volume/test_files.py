"""Reading what somebody else wrote never blocks, never leaves the volume, and never ends in a stack trace."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.model import Reason
from gateway.volume.files import MOST_VALUES, Folder, has_hole, open_regular, read_capped, read_json, safe_relative
from gateway.volume.reasons import Unfit

NOBODY = 65534


def refused(path: Path, root: Path, cap: int = 1000) -> Reason:
    with pytest.raises(Unfit) as caught:
        read_json(str(path), str(root), cap, path.name)
    return caught.value.reason


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": [1, 2]}')
    assert read_json(str(tmp_path / "config.json"), str(tmp_path)) == {"a": [1, 2]}


def test_a_missing_file_is_incomplete_and_named(tmp_path: Path) -> None:
    found = refused(tmp_path / "config.json", tmp_path)
    assert (found.code, found.kind, found.file) == ("file_missing", "incomplete", "config.json")
    assert "config.json" in found.remedy


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert refused(tmp_path / "config.json", tmp_path).code == "not_a_file"


def test_a_directory_a_socket_and_a_device_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        codes = {name: refused(tmp_path / name, tmp_path).code for name in ("folder", "zero", "socket")}
    assert codes == {"folder": "not_a_file", "zero": "not_a_file", "socket": "not_a_file"}


def test_a_link_out_of_the_root_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "volume"
    (root / "blobs").mkdir(parents=True)
    (root / "blobs" / "abc").write_text("{}")
    (root / "inside.json").symlink_to("blobs/abc")
    (tmp_path / "secret.json").write_text("{}")
    (root / "outside.json").symlink_to(tmp_path / "secret.json")
    assert read_json(str(root / "inside.json"), str(root)) == {}
    found = refused(root / "outside.json", root)
    assert (found.code, found.kind) == ("outside_volume", "refused")


def test_a_root_whose_name_is_a_prefix_of_anothers_does_not_contain_it(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume2").mkdir()
    (tmp_path / "volume2" / "config.json").write_text("{}")
    (tmp_path / "volume" / "config.json").symlink_to(tmp_path / "volume2" / "config.json")
    assert refused(tmp_path / "volume" / "config.json", tmp_path / "volume").code == "outside_volume"


def test_a_root_that_is_itself_a_link_is_the_place_that_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.json").write_text("{}")
    (tmp_path / "volume").symlink_to("real")
    assert read_json(str(tmp_path / "volume" / "config.json"), str(tmp_path / "volume")) == {}


def test_a_dangling_link_says_how_to_copy_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("../../blobs/abc")
    found = refused(tmp_path / "config.json", tmp_path)
    assert (found.code, found.kind) == ("link_broken", "incomplete")
    assert "cp -rL" in found.remedy


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("config.json")
    assert refused(tmp_path / "config.json", tmp_path).code == "outside_volume"


def test_a_file_over_the_cap_is_refused_before_a_byte_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "config.json", "wb") as stream:
        stream.truncate(2**40)  # sparse: reading it would take for ever
    found = refused(tmp_path / "config.json", tmp_path)
    assert found.code == "file_too_large"
    assert "1,099,511,627,776" in found.message


def test_a_file_of_exactly_the_cap_is_read(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"x" * 1000)
    assert read_capped(str(tmp_path / "vocab.txt"), str(tmp_path), 1000) == b"x" * 1000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a": 1',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"[" * 900_000,
        b'{"a":' * 100_000,
        b"1" * 5000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b"{} {}",
    ],
    ids=["empty", "cut", "cut later", "utf16", "bom", "nested lists", "nested objects", "digits", "digits in", "two"],
)
def test_json_that_a_parser_stumbles_over_is_invalid(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    found = refused(tmp_path / "config.json", tmp_path, cap=2_000_000)
    assert (found.code, found.kind) == ("json_invalid", "invalid")


def test_a_document_of_very_many_values_is_refused_before_one_is_built(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"[" + b"[]," * MOST_VALUES + b"[]]")
    found = refused(tmp_path / "config.json", tmp_path, cap=2_000_000)
    assert (found.code, found.kind) == ("file_too_large", "refused")


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A directory of root's that another uid is looking at, as a gateway looks at a trainer's files."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_an_unreadable_file_is_told_with_owner_uid_mode_and_the_chmod(as_nobody: Path) -> None:
    (as_nobody / "model.safetensors").write_bytes(b"x")
    (as_nobody / "model.safetensors").chmod(0o600)
    os.seteuid(NOBODY)
    try:
        found = refused(as_nobody / "model.safetensors", as_nobody)
    finally:
        os.seteuid(0)
    assert (found.code, found.kind) == ("file_unreadable", "unreadable")
    assert "owner uid 0" in found.message
    assert f"uid {NOBODY}" in found.message
    assert "0600" in found.message
    assert "chmod a+r model.safetensors" in found.remedy


def test_a_file_in_a_closed_folder_is_unreadable_and_not_missing(as_nobody: Path) -> None:
    (as_nobody / "1_Pooling").mkdir(mode=0o700)
    (as_nobody / "1_Pooling" / "config.json").write_text("{}")
    folder = Folder(str(as_nobody), str(as_nobody))
    os.seteuid(NOBODY)
    try:
        assert folder.has("1_Pooling/config.json")
        with pytest.raises(Unfit) as caught:
            folder.json("1_Pooling/config.json")
    finally:
        os.seteuid(0)
    assert caught.value.reason.code == "file_unreadable"


def test_a_preallocated_file_has_a_hole_and_a_written_or_empty_one_has_none(tmp_path: Path) -> None:
    with open(tmp_path / "growing", "wb") as stream:
        stream.write(b"begun")
        stream.truncate(10_000_000)
    (tmp_path / "whole").write_bytes(b"x" * 100_000)
    (tmp_path / "empty").touch()
    found = {name: has_hole(str(tmp_path / name)) for name in ("growing", "whole", "empty")}
    assert found == {"growing": True, "whole": False, "empty": False}


def test_looking_for_holes_leaves_the_reading_position_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abcdef")
    with open_regular(str(tmp_path / "file"), str(tmp_path)) as descriptor:
        assert os.read(descriptor, 3) == b"abc"
        assert not has_hole(descriptor)
        assert os.read(descriptor, 3) == b"def"


def test_a_name_that_is_not_utf8_can_still_be_told(tmp_path: Path) -> None:
    name = os.fsdecode(b"bad\xff\nname")
    found = refused(tmp_path / name, tmp_path)
    assert found.code == "file_missing"
    assert found.message.isascii()
    assert found.message.isprintable()


def test_a_null_byte_in_a_path_is_an_answer_and_not_a_crash(tmp_path: Path) -> None:
    assert refused(tmp_path / "a\0b", tmp_path).code == "read_failed"
    assert not Folder(str(tmp_path), str(tmp_path)).has("a\0b")


@pytest.mark.parametrize(
    ("path", "canonical"),
    [("", ""), ("1_Pooling", "1_Pooling"), ("./1_Pooling/", "1_Pooling"), ("a/b", "a/b"), (".", "")]
    + [(path, None) for path in ("/etc", "..", "a/../b", "a//b", "C:\\x", "a\0", ".hidden", "~x", "a\nb", "\ud800")],
)
def test_only_plain_relative_paths_are_safe(path: str, canonical: str | None) -> None:
    assert safe_relative(path) == canonical
