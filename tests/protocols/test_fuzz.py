"""A minute of what `make fuzz` does at length, with the same seed."""

from __future__ import annotations

from pathlib import Path

from tests.protocols.fuzz import fuzz


async def test_no_request_that_the_description_allows_breaks_the_gateway(tmp_path: Path) -> None:
    count, status, said = await fuzz(tmp_path, examples=3, phases="coverage,fuzzing")
    assert status == 0, said
    assert "Traceback" not in said
    assert "'code': 'internal'" not in said
    assert count > 2000
