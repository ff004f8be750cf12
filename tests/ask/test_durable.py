"""What reaches the disk, and where a store cannot be kept."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gateway.ask.lance import LanceStore
from gateway.errors import KnowledgeDirUnsuitable, KnowledgeStoreFailed
from tests.ask.stores import DIM, chunks, document, spread


class Disk:
    """A disk that forgets what was not synced: `lost` are the files and folders that a power cut would take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._kept: set[tuple[int, int]] = set()
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)

    def _sync(self, descriptor: int) -> None:
        stat = os.fstat(descriptor)
        self._kept.add((stat.st_dev, stat.st_ino))
        self._fsync(descriptor)

    def lost(self, root: Path) -> list[str]:
        entries = [root, *root.rglob("*")]
        return [str(path) for path in entries if (path.stat().st_dev, path.stat().st_ino) not in self._kept]


async def test_an_acknowledged_document_and_a_finished_index_outlive_a_power_cut(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk, root = Disk(monkeypatch), tmp_path / "knowledge"
    store = LanceStore(str(root))
    await store.open()
    row = await store.create("", "papers")
    assert disk.lost(root) == []
    put = document("a", "one", "two")
    await store.put_documents(row.kb, [put])
    assert disk.lost(root) == []
    index = await store.create_index(row.kb, "m", "g", DIM)
    await store.upsert(index, [put], chunks(put), spread(2))
    assert disk.lost(root) != [], "an upsert alone is not promised, and this test would see it"
    await store.finish(index)
    assert disk.lost(root) == []
    await store.upsert(index, [put], chunks(put), spread(2))
    assert await store.switch(row.kb, row.version, index)
    assert disk.lost(root) == []
    await store.delete_document(row.kb, put.id)
    assert disk.lost(root) == []
    await store.close()


async def test_what_another_process_wrote_and_did_not_sync_is_synced_with_what_stands_on_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = tmp_path / "knowledge"
    first, second = LanceStore(str(root)), LanceStore(str(root))
    await first.open()
    row = await first.create("", "papers")
    await first.put_documents(row.kb, [document("a", "one")])
    await first.close()
    disk = Disk(monkeypatch)  # as if nothing of that had been synced
    await second.open()
    await second.put_documents(row.kb, [document("b", "one")])
    tables = [path for path in root.iterdir() if path.name.startswith("documents-")]
    assert [disk.lost(table) for table in tables] == [[]]
    await second.close()


async def test_a_hint_that_a_power_cut_has_spoilt_hinders_nobody(tmp_path: Path) -> None:
    """The one file that LanceDB writes over: it may be old, empty or half."""
    root = tmp_path / "knowledge"
    for n, spoilt in enumerate((b"", b"{", b'{"version":1}', b'{"version":99999}', b"\0" * 64)):
        store = LanceStore(str(root))
        await store.open()
        row = await store.create("", f"base{n}")
        await store.put_documents(row.kb, [document("a", "one"), document("b", "two")])
        await store.put_documents(row.kb, [document("a", "changed")])
        await store.close()
        for hint in root.rglob("latest_version_hint.json"):
            hint.write_bytes(spoilt)
        again = LanceStore(str(root))
        await again.open()
        assert len(await again.rows()) == n + 1
        assert (await again.get_document(row.kb, document("a").id)).text == "changed\n"
        await again.close()


async def test_a_disk_that_cannot_be_synced_acknowledges_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = LanceStore(str(tmp_path / "knowledge"))
    await store.open()
    row = await store.create("", "papers")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KnowledgeStoreFailed, match="No space left"):
        await store.put_documents(row.kb, [document("a", "one")])
    with pytest.raises(KnowledgeStoreFailed, match="No space left"):
        await store.create("", "other")
    await store.close()


async def test_a_file_system_without_hard_links_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(KnowledgeDirUnsuitable, match="no hard links"):
        await LanceStore(str(tmp_path / "knowledge")).open()
    assert list((tmp_path / "knowledge").iterdir()) == [], "the probe leaves nothing"


async def test_a_place_that_is_no_directory_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(KnowledgeDirUnsuitable, match="cannot be written"):
        await LanceStore(str(tmp_path / "file")).open()


async def test_a_bucket_that_does_not_answer_is_refused_at_the_start() -> None:
    options = {
        "aws_endpoint": "http://127.0.0.1:9",
        "allow_http": "true",
        "aws_access_key_id": "x",
        "aws_secret_access_key": "x",
        "aws_region": "us-east-1",
        "client_max_retries": "0",
    }
    with pytest.raises(KnowledgeDirUnsuitable, match="s3://nowhere"):
        await LanceStore("s3://nowhere/kb", options).open()
