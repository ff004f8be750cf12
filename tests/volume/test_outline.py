"""A listing as a tree of hollow files: what may become a file, what stays as it is, and what goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.model import ModelId
from gateway.volume.objects import Object
from gateway.volume.outline import INDEX, Outline
from gateway.volume.source import scan

KEYS = ("finetuned/m/config.json", "finetuned/m/model.safetensors", "finetuned/m/1_Pooling/config.json")


def listed(*paths: str, etag: str = '"1"', size: int = 10) -> list[Object]:
    return [Object(path, size, etag, 1_000_000.0) for path in paths]


def nothing(found: Object) -> bytes | None:
    return None


def fingerprint(root: Path) -> str:
    return scan(str(root)).directories[ModelId("finetuned", "m")].fingerprint


def test_the_tree_has_names_sizes_and_dates_and_takes_no_room(tmp_path: Path) -> None:
    outline = Outline(str(tmp_path))
    assert outline.match(listed(*KEYS, size=10**12), nothing)
    found = os.stat(tmp_path / KEYS[1])
    assert (found.st_size, found.st_mtime, found.st_blocks) == (10**12, 1_000_000.0, 0)
    assert scan(str(tmp_path)).directories.keys() == {ModelId("finetuned", "m")}


def test_what_is_listed_as_before_keeps_its_fingerprint_also_over_a_restart(tmp_path: Path) -> None:
    assert Outline(str(tmp_path)).match(listed(*KEYS), nothing)
    before = fingerprint(tmp_path)
    assert not Outline(str(tmp_path)).match(listed(*KEYS), nothing)
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("change", [{"etag": '"2"'}, {"size": 11}])
def test_another_object_of_the_same_name_is_another_fingerprint(tmp_path: Path, change: dict[str, object]) -> None:
    outline = Outline(str(tmp_path))
    outline.match(listed(*KEYS), nothing)
    before = fingerprint(tmp_path)
    outline.match([*listed(*KEYS[:2]), *listed(KEYS[2], **change)], nothing)  # type: ignore[arg-type]
    assert fingerprint(tmp_path) != before


def test_what_is_listed_no_more_goes_with_the_folders_that_it_was_alone_in(tmp_path: Path) -> None:
    outline = Outline(str(tmp_path))
    outline.match(listed(*KEYS, "base/b/config.json"), nothing)
    outline.match(listed("base/b/config.json"), nothing)
    assert sorted(path.name for path in tmp_path.iterdir()) == [INDEX, "base"]
    outline.match([], nothing)
    assert [path.name for path in tmp_path.iterdir()] == [INDEX]


@pytest.mark.parametrize("content", [b"{", b'{"objects": {"\xed": 1}}'])
def test_files_that_a_lost_index_does_not_know_are_made_anew_or_removed(content: bytes, tmp_path: Path) -> None:
    Outline(str(tmp_path)).match(listed(*KEYS), nothing)
    (tmp_path / INDEX).write_bytes(content)
    again = Outline(str(tmp_path))
    assert again.match(listed(KEYS[0]), nothing)
    assert [str(path.relative_to(tmp_path)) for path in (tmp_path / "finetuned").rglob("*") if path.is_file()] == [
        KEYS[0]
    ]


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("finetuned/m/../../../escape", "'..'"),
        ("../escape", "'..'"),
        ("finetuned/./x", "'.'"),
        ("/etc/passwd", "//"),
        ("finetuned//x", "//"),
        ("finetuned/m/a\0b", "null"),
        ("finetuned/" + "n" * 256, "255 bytes"),
        ("/".join("x" * 20), "16 parts"),
        ("finetuned/\ud800", "255 bytes"),
    ],
)
def test_a_key_that_is_no_path_is_named_and_becomes_no_file(tmp_path: Path, key: str, why: str) -> None:
    outline = Outline(str(tmp_path / "root"))
    outline.match(listed(*KEYS, key), nothing)
    (refused,) = outline.refused
    assert why in refused.why
    assert refused.name.isascii()
    assert refused.name.isprintable()
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {f"root/{each}" for each in (*KEYS, INDEX)}


def test_a_key_that_is_a_file_and_a_folder_is_the_folder_whichever_came_first(tmp_path: Path) -> None:
    outline = Outline(str(tmp_path))
    outline.match(listed("finetuned/m"), nothing)
    assert (tmp_path / "finetuned/m").is_file()
    outline.match(listed("finetuned/m", *KEYS), nothing)
    assert (tmp_path / "finetuned/m").is_dir()
    assert [each.name for each in outline.refused] == ["finetuned/m"]
    outline.match(listed("finetuned/m"), nothing)
    assert (tmp_path / "finetuned/m").is_file()
    assert outline.refused == ()


def test_staging_and_marks_of_empty_folders_are_passed_over(tmp_path: Path) -> None:
    outline = Outline(str(tmp_path))
    outline.match(listed(*KEYS, ".parts/x", ".index.json", "finetuned/", "finetuned/empty/"), nothing)
    assert outline.refused == ()
    assert scan(str(tmp_path)).directories.keys() == {ModelId("finetuned", "m")}
    assert not (tmp_path / ".parts").exists()


def test_what_a_look_reads_itself_is_there_with_its_content(tmp_path: Path) -> None:
    outline = Outline(str(tmp_path))
    outline.match(listed("aliases.toml"), lambda found: b"[aliases]\n")
    assert (tmp_path / "aliases.toml").read_bytes() == b"[aliases]\n"
