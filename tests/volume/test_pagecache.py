"""Weights are asked for from their first byte to their last."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from gateway.model import Generation
from gateway.volume import pagecache
from tests import making

DEADLINE = 300.0  # seconds for the disk to carry out its orders; it only ends a test that hangs
LARGE = 24 << 20  # more than one call of posix_fadvise has read on any disk


@pytest.fixture
def generation(tmp_path: Path) -> Generation:
    return making.generation(making.encoder(tmp_path / "model", shards=2))


def cached(path: Path) -> int:
    """Bytes of a file in the page cache."""
    found = subprocess.run(["fincore", "-nbo", "RES", path], check=True, capture_output=True, text=True)
    return int(found.stdout)


def test_every_file_of_weights_is_asked_for_whole(generation: Generation) -> None:
    sizes = [os.path.getsize(os.path.join(generation.path, name)) for name in generation.manifest.weights]
    assert len(sizes) > 1
    assert pagecache.read_ahead(generation) == sum(sizes)


@pytest.mark.skipif(shutil.which("fincore") is None, reason="util-linux says what is in the page cache")
def test_a_file_larger_than_one_read_ahead_comes_whole(generation: Generation) -> None:
    """Asked for in one piece, of a large file only the beginning came."""
    file = Path(generation.path, "large.safetensors")
    with open(file, "wb") as stream:
        stream.write(os.urandom(LARGE))
        stream.flush()
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached(file):
        pytest.skip("this file system keeps its files in memory")
    manifest = msgspec.structs.replace(generation.manifest, weights=("large.safetensors",))
    pagecache.read_ahead(msgspec.structs.replace(generation, manifest=manifest))
    deadline = time.monotonic() + DEADLINE
    while (there := cached(file)) < LARGE:
        assert time.monotonic() < deadline, there


def test_weights_that_have_gone_are_nobodys_error(generation: Generation) -> None:
    for name in generation.manifest.weights:
        os.remove(os.path.join(generation.path, name))
    assert pagecache.read_ahead(generation) == 0


def test_what_would_fill_the_memory_is_left_on_the_disk(
    generation: Generation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "meminfo"
    told.write_text(f"MemTotal: 9 kB\nMemAvailable:  {generation.manifest.stored_bytes // 1024} kB\n")
    monkeypatch.setattr(pagecache, "MEMORY", told)
    assert pagecache.read_ahead(generation) == 0
    told.write_text(f"MemAvailable:  {3 * generation.manifest.stored_bytes // 1024} kB\n")
    assert pagecache.read_ahead(generation) > 0
