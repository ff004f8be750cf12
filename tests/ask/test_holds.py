"""Which generations indexes were made with, over restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.ask.holds import FILE, Holds


async def test_what_was_added_is_known_after_a_restart(tmp_path: Path) -> None:
    await Holds(str(tmp_path)).add("a" * 64)
    assert set(Holds(str(tmp_path)).digests()) == {"a" * 64}


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'["\xed"]'])
def test_a_broken_file_holds_nothing_and_ends_no_start(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert set(Holds(str(tmp_path)).digests()) == set()
