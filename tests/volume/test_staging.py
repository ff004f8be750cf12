"""Where pulls lie until they are whole, and how they get their name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gateway.errors import PullConflict, PullInProgress, VolumeFull, VolumeUnwritable
from gateway.model import ModelId
from gateway.volume import staging
from gateway.volume.source import scan
from gateway.volume.staging import RECORD, Place, writing

MODEL = ModelId("acme", "tiny")
PULLED = '{"model": "m", "revision": "main", "commit": "c", "endpoint": "e", "pulled_at": 0, "files": []}'


def fill(stage: str, text: str) -> None:
    Path(stage, "config.json").write_text(text)
    Path(stage, RECORD).write_text(PULLED)


def publish(place: Place, commit: str) -> None:
    with place.staging(commit) as stage:
        fill(stage, commit)
        place.publish(stage)
        place.discard()


def test_what_is_staged_is_no_model_until_it_is_published(tmp_path: Path) -> None:
    place = Place(str(tmp_path), MODEL)
    with place.staging("one") as stage:
        fill(stage, "one")
        seen = scan(str(tmp_path))
        assert (dict(seen.directories), seen.ignored) == ({}, ())
        place.publish(stage)
    assert list(scan(str(tmp_path)).directories) == [MODEL]


def test_publishing_again_exchanges_and_leaves_nothing(tmp_path: Path) -> None:
    place = Place(str(tmp_path), MODEL)
    publish(place, "one")
    publish(place, "two")
    assert (tmp_path / "acme/tiny/config.json").read_text() == "two"
    assert os.listdir(tmp_path) == ["acme"]
    assert os.listdir(tmp_path / "acme") == ["tiny"]


def test_a_file_system_without_exchange_gets_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        """A C library that is older than renameat2."""

        def __init__(self, name: None, use_errno: bool) -> None: ...

    monkeypatch.setattr(staging.ctypes, "CDLL", Library)
    place = Place(str(tmp_path), MODEL)
    publish(place, "one")
    publish(place, "two")
    assert (tmp_path / "acme/tiny/config.json").read_text() == "two"
    assert os.listdir(tmp_path) == ["acme"]


@pytest.mark.parametrize("second", ["one", "three"], ids=["resumed", "another commit"])
def test_a_kill_between_two_renames_leaves_a_model_that_the_next_pull_puts_back(tmp_path: Path, second: str) -> None:
    place = Place(str(tmp_path), MODEL)
    publish(place, "zero")
    with place.staging("one") as stage:
        fill(stage, "one")
        os.rename(place.target, f"{stage}.old")  # and here it was killed
    with place.staging(second):
        assert (tmp_path / "acme/tiny/config.json").read_text() == "zero"


def test_what_an_earlier_exchange_has_replaced_does_not_come_back(tmp_path: Path) -> None:
    place = Place(str(tmp_path), MODEL)
    with place.staging("one") as stage:
        fill(stage, "one")
        os.rename(stage, f"{stage}.old")  # killed before the last rename; then somebody removed the model
    with place.staging("two"):
        assert not os.path.exists(place.target)


def test_a_second_rename_that_fails_takes_the_first_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(str(tmp_path), MODEL)
    publish(place, "zero")
    rename, tries = os.rename, []

    def failing(one: str, other: str) -> None:
        tries.append(one)
        if len(tries) == 3:  # the first finds the name taken
            raise OSError(errno.EIO, "Input/output error")
        rename(one, other)

    monkeypatch.setattr(staging.ctypes, "CDLL", lambda name, use_errno: object())
    with place.staging("one") as stage:
        fill(stage, "one")
        monkeypatch.setattr(os, "rename", failing)
        with pytest.raises(OSError, match="Input/output"):
            place.publish(stage)
        monkeypatch.undo()
    assert (tmp_path / "acme/tiny/config.json").read_text() == "zero"


def test_what_appeared_while_it_was_pulled_is_not_replaced(tmp_path: Path) -> None:
    place = Place(str(tmp_path), MODEL)
    with place.staging("one") as stage:
        fill(stage, "one")
        (tmp_path / "acme/tiny").mkdir(parents=True)
        (tmp_path / "acme/tiny/mine").touch()
        with pytest.raises(PullConflict):
            place.publish(stage)
    assert os.listdir(tmp_path / "acme/tiny") == ["mine"]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"model": "\xed"}', b'{"more": ' + b"[" * 100_000])
def test_a_record_that_cannot_be_read_makes_a_directory_somebody_elses(content: bytes, tmp_path: Path) -> None:
    place = Place(str(tmp_path), MODEL)
    publish(place, "one")
    (tmp_path / "acme/tiny" / RECORD).write_bytes(content)
    assert place.record() is None
    with pytest.raises(PullConflict):
        place.check_free()


def test_one_process_at_a_time_and_the_lock_goes_with_it(tmp_path: Path) -> None:
    place, other = Place(str(tmp_path), MODEL), Place(str(tmp_path), MODEL)
    with place.staging("one"), pytest.raises(PullInProgress), other.staging("one"):
        pass
    with other.staging("one") as stage:
        assert os.path.isdir(stage)


def test_who_waits_for_a_lock_that_is_discarded_makes_a_new_one(tmp_path: Path) -> None:
    place = Place(str(tmp_path), MODEL)
    with place.staging("one"):
        place.discard()
        with Place(str(tmp_path), MODEL).staging("two") as stage:  # the first holds a lock that has no name any more
            assert os.path.isdir(stage)


def test_another_commit_starts_over_and_frees_what_came_of_the_first(tmp_path: Path) -> None:
    place = Place(str(tmp_path), MODEL)
    with place.staging("one") as stage:
        fill(stage, "one")
    with place.staging("two") as later:
        assert os.listdir(later) == []
        assert not os.path.exists(stage)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, VolumeFull), (errno.EDQUOT, VolumeFull), (errno.EROFS, VolumeUnwritable)],
)
def test_what_the_disk_says_is_told_with_its_path(number: int, expected: type[Exception]) -> None:
    with pytest.raises(expected, match="/models/acme"), writing("/models"):
        raise OSError(number, os.strerror(number), "/models/acme")
