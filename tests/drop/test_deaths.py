"""A gateway that is killed while documents come in, or while a base follows its model: the short form of
`python -m bench.drop.deaths`, and its judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.drop import deaths
from bench.drop.deaths import Told, lost, mixed, text_of, torn, whole

pytest.importorskip("lancedb", reason="the extra `ask` is not installed")

NAME = "d1.txt"


async def test_a_gateway_that_is_killed_loses_nothing_leaves_nothing_half_and_mixes_no_generations(
    tmp_path: Path,
) -> None:
    report = await deaths.torture(tmp_path, 2, seed=3)
    assert report["faults"] == []
    assert report["kills"] == {"ingestion": 1, "reindex": 1}
    assert report["acknowledged"] > len(deaths.NAMES)
    assert report["hits"] > 0


def stored(version: int, chunks: list[tuple[int, int]] | None = None) -> dict[str, Any]:
    text = text_of(NAME, version)
    spans = [(0, len(text))] if chunks is None else chunks
    shown = [{"start": start, "end": end} for start, end in spans]
    return {"text": text, "metadata": {"version": version}, "chunks": shown}


def test_a_version_that_was_acknowledged_may_be_followed_and_not_lost() -> None:
    told = Told()
    told.begin(NAME, 1)
    told.end(NAME, 1, found=True)
    assert lost(told, {NAME: stored(1)}) == []
    assert lost(told, {}) == [f"{NAME} is in version None, and may be in [1]"]
    assert lost(told, {NAME: stored(1, [])}) == [f"{NAME} was said to be found, and is not"]
    told.begin(NAME, 2)
    assert lost(told, {NAME: stored(1, [])}) == lost(told, {NAME: stored(2)}) == []
    told.end(NAME, 2, found=False)
    assert lost(told, {NAME: stored(2, [])}) == []
    assert lost(told, {NAME: stored(1)}) == [f"{NAME} is in version 1, and may be in [2]"]
    assert lost(told, {NAME: stored(2) | {"text": text_of(NAME, 1)}}) == [f"{NAME} is half"]


def test_what_was_deleted_stays_away() -> None:
    told = Told()
    told.begin(NAME, 1)
    told.end(NAME, 1, found=True)
    told.begin(NAME, None)
    assert lost(told, {}) == lost(told, {NAME: stored(1)}) == []
    told.end(NAME, None, found=False)
    assert lost(told, {NAME: stored(1)}) == [f"{NAME} is in version 1, and may be in [None]"]


def test_a_document_is_whole_when_its_chunks_are_it() -> None:
    end = len(text_of(NAME, 1))
    assert whole(stored(1, [(40, end), (0, 50)]))
    for chunks in ([(0, 50), (51, end)], [(0, end - 1)], []):
        assert not whole(stored(1, chunks))


def test_a_hit_of_two_versions_and_a_score_of_another_generation_are_seen() -> None:
    text = text_of(NAME, 1)
    hit = {"name": NAME, "metadata": {"version": 1}, "start": 0, "end": 20, "text": text[:20], "score": 0.6}
    assert torn([hit]) == []
    assert torn([hit | {"metadata": {"version": 2}}]) == [f"a hit of {NAME} is not of its version 2"]
    vectors = np.array([[2.0, 0.0], [1.8, 2.4]])
    assert mixed([hit], vectors, "a") == []
    assert mixed([hit | {"score": 0.61}], vectors, "a")
