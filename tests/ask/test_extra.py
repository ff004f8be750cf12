"""Knowledge bases are an extra: nothing of it is loaded before somebody asks, and without it the gateway says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.ask import extra
from gateway.errors import AskUnavailable

HEAVY = ("lancedb", "pyarrow", "pypdfium2", "trafilatura", "semantic_text_splitter", "snowballstemmer")


def test_a_gateway_that_nobody_asks_has_loaded_nothing_of_the_extra() -> None:
    program = (
        f"import sys, gateway.life, gateway.cli, gateway.ask.extra; print([n for n in {HEAVY} if n in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_without_the_extra_the_answer_is_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)  # as if it were not installed
    for name in [name for name in sys.modules if name.startswith("gateway.ask.")]:
        if name.rpartition(".")[2] in {"lance", "forkless", "tables", "lance_index", "registry", "archive"}:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("gateway.ask.lance", raising=False)
    with pytest.raises(AskUnavailable, match=r"pip install 'dropgate\[ask\]'"):
        extra.store(str(tmp_path))


async def test_with_it_a_store_is_opened_where_it_is_said(tmp_path: Path) -> None:
    store = extra.store(str(tmp_path / "knowledge"))
    await store.open()
    await store.create("", "papers")
    await store.close()
    again = extra.store(str(tmp_path / "knowledge"))
    await again.open()
    assert [row.name for row in await again.rows()] == ["papers"]
    await again.close()
