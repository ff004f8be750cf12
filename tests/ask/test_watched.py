"""The watched directory of documents: what is dropped, changed or taken away there is believed once it has settled."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
import pytest_asyncio

from gateway import events
from gateway.ask.drops import Settling, look
from gateway.ask.watched import SUFFIXES, Watched
from gateway.errors import KnowledgeBaseNotFound
from tests.ask.memory_store import MemoryStore
from tests.ask.tiny import Desk, desk

pytest.importorskip("semantic_text_splitter", reason="the extra `ask` is not installed")

SETTLE = 1.0


class Folder:
    """A desk with a directory before it, and a clock that the tests turn."""

    def __init__(self, desk: Desk, root: Path) -> None:
        self.desk = desk
        self.root = root
        self.told: list[events.Event] = []
        tell = events.Events()
        tell.subscribe(self.told.append)
        self.watched = Watched(
            str(root), desk.bases, desk.ingestion, tell, most_bytes=10_000, period=1.0, settle=SETTLE
        )
        self.now = 100.0

    def write(self, name: str, text: str = "A text.") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    async def look(self, *, later: float = 0.0) -> None:
        self.now += later
        await self.watched.look(self.now)

    async def settle(self) -> None:
        """Looks until all that is there is believed, and all that was put in can be found."""
        for _ in range(3):
            await self.look(later=SETTLE)
        for row in await self.desk.bases.list():
            await self.desk.settle(row.name)


@pytest_asyncio.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Folder]:
    async with desk(str(tmp_path)) as made:
        (tmp_path / "documents").mkdir()
        yield Folder(made, tmp_path / "documents")


async def test_a_file_in_a_folder_goes_into_the_base_of_that_name(folder: Folder) -> None:
    folder.write("papers/a.txt", "One.")
    folder.write("papers/deep/er/b.md", "Two.")
    folder.write("notes/c.txt", "Three.")
    await folder.settle()
    assert await folder.desk.texts("papers") == {"a.txt": "One.", "deep/er/b.md": "Two."}
    assert await folder.desk.texts("notes") == {"c.txt": "Three."}


async def test_a_file_is_not_taken_before_it_was_quiet_for_long_enough(folder: Folder) -> None:
    folder.write("papers/a.txt", "Half")
    await folder.look()
    await folder.look(later=SETTLE - 0.1)
    assert await folder.desk.bases.list() == []
    folder.write("papers/a.txt", "Half and the other half.")
    await folder.look(later=0.2)
    assert await folder.desk.bases.list() == []
    await folder.settle()
    assert await folder.desk.texts() == {"a.txt": "Half and the other half."}


async def test_a_file_that_changes_replaces(folder: Folder) -> None:
    folder.write("papers/a.txt", "Old.")
    await folder.settle()
    folder.write("papers/a.txt", "New and longer.")
    await folder.settle()
    assert await folder.desk.texts() == {"a.txt": "New and longer."}


async def test_a_file_that_has_gone_for_good_is_deleted(folder: Folder) -> None:
    path = folder.write("papers/a.txt")
    folder.write("papers/b.txt", "Stays.")
    await folder.settle()
    path.unlink()
    await folder.look(later=SETTLE)
    assert (await folder.desk.texts()).keys() == {"a.txt", "b.txt"}, "absences settle too"
    await folder.settle()
    assert await folder.desk.texts() == {"b.txt": "Stays."}


async def test_a_file_that_is_replaced_by_two_renames_is_never_deleted(folder: Folder) -> None:
    path = folder.write("papers/a.txt", "Old.")
    await folder.settle()
    path.rename(path.with_suffix(".tmp"))
    await folder.look(later=0.1)
    folder.write("papers/a.txt", "New and longer.")
    await folder.look(later=0.1)
    assert await folder.desk.texts() == {"a.txt": "Old."}
    await folder.settle()
    assert await folder.desk.texts() == {"a.txt": "New and longer."}


async def test_a_root_that_vanishes_takes_nothing_away(folder: Folder) -> None:
    folder.write("papers/a.txt", "Stays.")
    await folder.settle()
    shutil.move(folder.root, folder.root.with_name("unmounted"))
    await folder.settle()
    assert await folder.desk.texts() == {"a.txt": "Stays."}
    assert [each.code for each in folder.told if isinstance(each, events.Notice)] == ["documents_not_followed"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
async def test_a_folder_that_cannot_be_read_takes_nothing_away(folder: Folder) -> None:
    folder.write("papers/a.txt", "Stays.")
    await folder.settle()
    (folder.root / "papers").chmod(0)
    await folder.settle()
    (folder.root / "papers").chmod(0o700)
    assert await folder.desk.texts() == {"a.txt": "Stays."}


async def test_what_was_put_in_otherwise_is_not_taken_away(folder: Folder) -> None:
    from tests.ask.test_ingest import file

    folder.write("papers/a.txt", "Dropped.")
    await folder.settle()
    await folder.desk.ingestion.add(folder.desk.bases, "papers", [file("sent.txt", "Sent.")])
    await folder.settle()
    assert (await folder.desk.texts()).keys() == {"a.txt", "sent.txt"}


async def test_a_file_that_went_while_no_gateway_ran_is_deleted(tmp_path: Path) -> None:
    store = MemoryStore()
    async with desk(str(tmp_path), store) as made:
        before = Folder(made, tmp_path / "documents")
        path = before.write("papers/a.txt")
        before.write("papers/b.txt", "Stays.")
        await before.settle()
    path.unlink()
    async with desk(str(tmp_path), store) as made:
        after = Folder(made, tmp_path / "documents")
        await after.settle()
        assert await made.texts() == {"b.txt": "Stays."}


@pytest.mark.parametrize("name", [".hidden.txt", "a.txt.part", ".a.txt.Xy12Zz", "a.tmp", "a.docx", ".git/a.txt"])
async def test_names_of_copies_in_progress_and_hidden_ones_are_not_there(folder: Folder, name: str) -> None:
    folder.write(f"papers/{name}")
    await folder.settle()
    assert await folder.desk.bases.list() == []


async def test_a_link_that_leads_out_of_the_root_is_not_followed(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("A secret.", encoding="utf-8")
    (folder.root / "papers").mkdir()
    (folder.root / "papers/a.txt").symlink_to(tmp_path / "private.txt")
    (folder.root / "other").symlink_to(tmp_path)
    await folder.settle()
    assert await folder.desk.bases.list() == []


@pytest.mark.parametrize(
    ("links", "also"),
    [
        ({"papers/here": "."}, set()),
        ({"papers/deep/up": ".."}, set()),
        (
            {"papers/round": "../notes", "notes/round": "../papers"},
            {"papers/round/c.txt", "notes/round/a.txt", "notes/round/deep/b.txt"},
        ),
        ({"again": "papers", "papers/here": "."}, {"again/a.txt", "again/deep/b.txt"}),
    ],
)
def test_a_folder_is_looked_at_once_however_a_link_leads_back_to_it(
    links: dict[str, str], also: set[str], tmp_path: Path
) -> None:
    files = {"papers/a.txt", "papers/deep/b.txt", "notes/c.txt"}
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("A text.", encoding="utf-8")
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    found = look(str(tmp_path), SUFFIXES).files
    assert {f"{kb}/{name}" for kb, name in found} == files | also


async def test_a_file_that_somebody_has_open_for_writing_is_not_taken(folder: Folder) -> None:
    path = folder.write("papers/a.txt", "Half")
    program = "import sys; stream = open(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        writer.stdout.readline()
        await folder.settle()
        assert await folder.desk.bases.list() == []
        writer.stdin.close()
        writer.wait()
    await folder.settle()
    assert await folder.desk.texts() == {"a.txt": "Half"}


async def test_what_cannot_be_read_is_told_once_and_keeps_no_other_out(folder: Folder) -> None:
    folder.write("papers/a.pdf", "no PDF")
    folder.write("papers/b.txt", "x" * 10_001)
    folder.write("papers/c\nd.txt")
    folder.write("papers/good.txt", "Good.")
    await folder.settle()
    await folder.settle()
    assert await folder.desk.texts() == {"good.txt": "Good."}
    told = sorted((each.document, each.code) for each in folder.told if isinstance(each, events.DocumentFailed))
    assert told == [
        ("a.pdf", "document_unreadable"),
        ("b.txt", "document_too_large"),
        ("c\\nd.txt", "invalid_body"),
    ]


async def test_a_folder_that_is_called_like_a_route_is_told_why_and_keeps_no_other_out(folder: Folder) -> None:
    path = folder.write("docs/a.txt")
    folder.write("papers/good.txt", "Good.")
    await folder.settle()
    assert [row.name for row in await folder.desk.bases.list()] == ["papers"]
    (told,) = [each for each in folder.told if isinstance(each, events.DocumentFailed)]
    assert (told.kb, told.document, told.code) == ("docs", "a.txt", "invalid_body")
    assert "`docs` is a route" in told.message
    path.unlink()
    folder.write("papers/later.txt", "Later.")
    await folder.settle()
    assert (await folder.desk.texts()).keys() == {"good.txt", "later.txt"}
    assert not [each for each in folder.told if isinstance(each, events.Notice)]


async def test_a_base_that_was_dropped_is_made_again_by_the_next_file_alone(folder: Folder) -> None:
    folder.write("papers/a.txt", "One.")
    await folder.settle()
    await folder.desk.bases.delete("papers")
    await folder.settle()
    with pytest.raises(KnowledgeBaseNotFound):
        await folder.desk.bases.get("papers")
    folder.write("papers/b.txt", "Two.")
    await folder.settle()
    assert await folder.desk.texts() == {"b.txt": "Two."}


def test_a_look_finds_files_of_known_kinds_alone(tmp_path: Path) -> None:
    for name in ("papers/a.TXT", "papers/b.exe", "c.txt", "bad name/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = look(str(tmp_path), SUFFIXES)
    assert found.files.keys() == {("papers", "a.TXT")}
    assert Settling(1.0).observe(found, 0.0) == ([], [])


async def test_a_file_that_no_process_could_be_started_for_is_taken_at_a_later_look(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("papers/a.txt", "One.")
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "create_subprocess_exec", AsyncMock(side_effect=BlockingIOError(11, "try again")))
        for _ in range(3):
            await folder.look(later=SETTLE)
    assert [each.name for each in folder.told] == ["notice"]
    await folder.settle()
    assert await folder.desk.texts() == {"a.txt": "One."}
