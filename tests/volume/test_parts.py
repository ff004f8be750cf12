"""What was fetched lies on the disk once, whole, and under a name that says what it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.volume import parts as module
from gateway.volume.copying import Refused
from gateway.volume.objects import Gone, Object, Unreachable
from gateway.volume.parts import Parts

CONTENT = bytes(range(256)) * 20_000  # 5 MB
SHA = hashlib.sha256(CONTENT).hexdigest()
WEIGHTS = Object("finetuned/m/model.safetensors", len(CONTENT), '"1"', 0.0)


class Store:
    """A bucket that keeps to its rules: it answers for what is listed, and can be cut off after some bytes."""

    def __init__(self) -> None:
        self.begins: list[int] = []
        self.cuts: list[int] = []  # bytes of each answer, until it is cut off
        self.etag = '"1"'

    def read(self, wanted: Object, begin: int = 0, count: int | None = None) -> Iterator[bytes]:
        self.begins.append(begin)
        if wanted.etag != self.etag:
            raise Gone(wanted.path)
        content = CONTENT[begin : None if count is None else begin + count]
        if self.cuts:
            yield content[: self.cuts.pop(0)]
            raise Unreachable("cut off")
        yield content


@pytest.fixture
def store() -> Store:
    return Store()


def opened(folder: Path, store: Store) -> Parts:
    parts = Parts(str(folder), store)  # type: ignore[arg-type]  # as much of it as is asked
    parts.open()
    return parts


def test_an_object_is_fetched_once_and_known_again_after_a_restart(tmp_path: Path, store: Store) -> None:
    parts = opened(tmp_path / "parts", store)
    assert parts.digest(WEIGHTS) is None
    assert parts.fetch(WEIGHTS) == SHA
    assert opened(tmp_path / "parts", store).link(WEIGHTS, str(tmp_path / "linked")) == SHA
    assert (tmp_path / "linked").read_bytes() == CONTENT
    assert os.stat(tmp_path / "linked").st_mode & 0o777 == 0o444
    assert store.begins == [0]


def test_a_fetch_goes_on_where_it_was_cut_and_hashes_all_of_it(tmp_path: Path, store: Store) -> None:
    store.cuts = [1_000_000, 500_000]
    told: list[int] = []
    assert opened(tmp_path / "parts", store).fetch(WEIGHTS, told.append) == SHA
    assert store.begins == [0, 1_000_000, 1_500_000]
    assert sum(told) == len(CONTENT)


def test_a_fetch_that_gets_nothing_more_fails_and_the_next_process_goes_on(tmp_path: Path, store: Store) -> None:
    store.cuts = [1_000_000, 0]
    with pytest.raises(Unreachable):
        opened(tmp_path / "parts", store).fetch(WEIGHTS)
    again = opened(tmp_path / "parts", store)
    assert again.digest(WEIGHTS) is None
    assert again.fetch(WEIGHTS) == SHA
    assert store.begins == [0, 1_000_000, 1_000_000]


def test_what_an_earlier_boot_left_half_is_begun_anew(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.cuts = [1_000_000, 0]
    with pytest.raises(Unreachable):
        opened(tmp_path / "parts", store).fetch(WEIGHTS)
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(module, "BOOT_ID", str(boot))
    assert opened(tmp_path / "parts", store).fetch(WEIGHTS) == SHA
    assert store.begins[-1] == 0


def test_an_object_that_was_replaced_is_not_taken_for_the_listed_one(tmp_path: Path, store: Store) -> None:
    store.etag = '"2"'
    parts = opened(tmp_path / "parts", store)
    with pytest.raises(Gone):
        parts.fetch(WEIGHTS)
    assert parts.digest(WEIGHTS) is None


def test_what_the_bucket_has_no_more_is_let_go_and_what_a_generation_is_made_of_stays(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = opened(tmp_path / "parts", store)
    parts.fetch(WEIGHTS)
    parts.keep([WEIGHTS])
    assert parts.digest(WEIGHTS) == SHA
    monkeypatch.setattr(module, "FORGOTTEN", -1.0)
    parts.link(WEIGHTS, str(tmp_path / "generation"))
    parts.keep([WEIGHTS])
    assert parts.digest(WEIGHTS) == SHA
    os.unlink(tmp_path / "generation")
    parts.keep([WEIGHTS])  # large, and of no generation
    assert parts.digest(WEIGHTS) is None
    parts.fetch(WEIGHTS)
    parts.link(WEIGHTS, str(tmp_path / "generation"))
    parts.keep([])
    assert [name for name in os.listdir(tmp_path / "parts") if not name.startswith(".")] == []
    assert (tmp_path / "generation").read_bytes() == CONTENT


def test_a_file_that_somebody_removed_is_fetched_again(tmp_path: Path, store: Store) -> None:
    parts = opened(tmp_path / "parts", store)
    parts.fetch(WEIGHTS)
    (file,) = (tmp_path / "parts").glob(f"*.{SHA}")
    file.unlink()
    assert parts.link(WEIGHTS, str(tmp_path / "linked")) == SHA
    assert store.begins == [0, 0]


def test_nothing_is_fetched_again_for_a_folder_that_is_not_there(tmp_path: Path, store: Store) -> None:
    parts = opened(tmp_path / "parts", store)
    parts.fetch(WEIGHTS)
    store.etag = '"2"'  # so that a second fetch would fail
    with pytest.raises(Refused) as refused:
        parts.link(WEIGHTS, str(tmp_path / "gone" / "linked"))
    assert [reason.code for reason in refused.value.reasons] == ["store_unwritable"]
    assert parts.digest(WEIGHTS) == SHA


def test_nothing_is_fetched_for_which_the_disk_has_no_room(tmp_path: Path, store: Store) -> None:
    parts = opened(tmp_path / "parts", store)
    with pytest.raises(Refused) as refused:
        parts.fetch_all([Object("m/x.safetensors", 2**60, '"1"', 0.0)])
    assert [reason.code for reason in refused.value.reasons] == ["disk_full"]
    assert store.begins == []


def test_a_gateway_that_stops_waits_for_no_fetch(tmp_path: Path, store: Store) -> None:
    parts = opened(tmp_path / "parts", store)
    parts.close()
    with pytest.raises(Unreachable, match="stops"):
        parts.fetch(WEIGHTS)
