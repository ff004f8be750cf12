"""Knowledge bases among processes: killed ones, reading ones, and two that want the same switch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.drop import kills
from gateway.ask.lance import LanceStore
from tests.ask.stores import document, filled, indexed

READER = """
import asyncio, sys
from bench.drop import kills
from gateway.ask import extra
from gateway.errors import IndexGone

async def read(folder):
    store = extra.store(folder)
    await store.open()
    looks, found = 0, []
    print("ready", flush=True)
    while looks < 40:
        live = (await store.row(kills.KB)).live
        if live is None:
            continue
        try:
            found += await kills.halves(store, live)
            looks += 1
        except IndexGone:
            continue
    print(len(found), flush=True)

asyncio.run(read(sys.argv[1]))
"""
SWITCHER = """
import asyncio, sys
from gateway.ask import extra

async def switch(folder, mine):
    store = extra.store(folder)
    await store.open()
    index = next(index for index in await store.indexes("/papers") if index.id == mine)
    print("ready", flush=True)
    for line in sys.stdin:
        print(int(await store.switch("/papers", int(line), index)), flush=True)

asyncio.run(switch(*sys.argv[1:]))
"""


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert said(process) == "ready"
    return process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


async def test_a_killed_writer_leaves_nothing_half_and_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    report = await kills.torture(str(tmp_path / "knowledge"), kills=4, seed=7)
    assert report["faults"] == []
    assert report["acknowledged"] != 0


async def test_what_would_be_a_fault_is_seen_as_one(tmp_path: Path) -> None:
    store = LanceStore(str(tmp_path / "knowledge"))
    await store.open()
    row = await store.create("", kills.BASE)
    put = kills.document("d1", 3)
    await store.put_documents(row.kb, [put])
    index = await store.create_index(row.kb, "model", "generation", kills.DIM)
    await kills.indexed(store, index, [put])
    await store.switch(row.kb, row.version, index)
    told = kills.Told()
    for line in ("document d1 3", "indexed d1 3"):
        told.hear(line)
    assert await kills.faults(store, told) == []
    told.hear("document d1 4")
    told.hear("indexed d1 4")
    assert await kills.faults(store, told) == [
        "d1 lost version 4",
        "d1 is not in the live index in version 4 or later",
    ]
    half = kills.chunks(put)[:3]
    await store.upsert(index, [put], half, await store.vectors(index, [chunk.id for chunk in half]))
    assert f"{put.id} is half in index {index.id}" in await kills.faults(store, told)
    await store.close()


def test_processes_that_read_while_another_writes_see_whole_documents_only(tmp_path: Path) -> None:
    folder = str(tmp_path / "knowledge")
    writer = subprocess.Popen(
        [sys.executable, "-m", "bench.drop.kills", "--write", folder], stdout=subprocess.PIPE, text=True
    )
    try:
        assert said(writer).startswith("document")  # there is a knowledge base to be read
        readers = [started(READER, folder) for _ in range(2)]
        assert [said(reader) for reader in readers] == ["0", "0"]
        assert [reader.wait() for reader in readers] == [0, 0]
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()


async def test_of_two_processes_that_switch_exactly_one_wins(tmp_path: Path) -> None:
    folder = str(tmp_path / "knowledge")
    store = LanceStore(folder)
    await store.open()
    put = document("a", "one")
    await filled(store, put)
    row = await store.row("/papers")
    mine = [await indexed(store, row, put) for _ in range(2)]
    processes = [started(SWITCHER, folder, index.id) for index in mine]
    for _ in range(10):
        before = await store.row("/papers")
        for process in processes:
            tell(process, str(before.version))
        won = [said(process) == "1" for process in processes]
        assert sum(won) == 1
        assert (await store.row("/papers")).live == mine[won.index(True)]
    for process in processes:
        process.communicate()
    await store.close()
