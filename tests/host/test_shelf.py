"""What is kept beside a generation is whole, and nothing is kept where it does not belong."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.host import shelf
from gateway.model import Generation
from tests import making


@pytest.fixture
def generation(tmp_path: Path) -> Generation:
    """As the store lays it out."""
    made = making.generation(making.encoder(tmp_path / ("a" * 64) / "files", layers=1))
    return msgspec.structs.replace(made, digest="a" * 64)


def write(folder: str) -> None:
    Path(folder, "network.bin").write_bytes(b"weights")


def test_what_was_kept_is_found_and_can_be_forgotten(generation: Generation) -> None:
    assert shelf.find(generation, "n") is None
    kept = shelf.keep(generation, "n", write)
    assert kept is not None
    assert kept == shelf.find(generation, "n")
    assert Path(kept, "network.bin").read_bytes() == b"weights"
    assert shelf.names(generation) == ["n"]
    shelf.remove(generation, "n")
    assert shelf.find(generation, "n") is None


def test_what_could_not_be_written_whole_has_no_name(generation: Generation) -> None:
    def full(folder: str) -> None:
        write(folder)
        raise OSError(28, "No space left on device")

    assert shelf.keep(generation, "n", full) is None
    assert list((Path(generation.path).parent / "runtimes").iterdir()) == []


def test_of_two_that_keep_the_same_the_first_stays(generation: Generation) -> None:
    def late(folder: str) -> None:
        shelf.keep(generation, "n", write)
        Path(folder, "network.bin").write_bytes(b"late")

    kept = shelf.keep(generation, "n", late)
    assert kept is not None
    assert Path(kept, "network.bin").read_bytes() == b"weights"


def test_a_generation_that_was_removed_meanwhile_does_not_come_back(generation: Generation) -> None:
    home = Path(generation.path).parent
    home.rename(home.with_name("away"))
    assert shelf.keep(generation, "n", write) is None
    assert not home.exists()


def test_nothing_is_kept_outside_the_store(tmp_path: Path) -> None:
    """A directory that is served in place, or from somewhere else, is not ours to write to."""
    elsewhere = making.generation(making.encoder(tmp_path / "m", layers=1))
    assert shelf.keep(elsewhere, "n", write) is None
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
