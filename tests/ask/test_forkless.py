"""Children of a gateway that has knowledge bases begin without a hook of LanceDB."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.ask.forkless import without_hooks

# What the child finds is its exit status: 0 where nothing was begun in it. uvloop's children are between fork and exec
# when hooks run, and tell nothing; one that is forked by hand meets the same hooks, and goes on to tell.
CHILD = """
import asyncio, os, sys, threading, warnings
warnings.simplefilter("ignore")
{first}
from gateway.ask import extra

async def main():
    store = extra.store(sys.argv[1])
    await store.open()
    await store.create("", "papers")
    from lancedb import background_loop
    before = background_loop.LOOP.thread
    if not (child := os.fork()):
        same = background_loop.LOOP.thread is before and not background_loop._FORK_WARNED
        os._exit(0 if same and threading.active_count() == 1 else 1)
    _, status = os.waitpid(child, 0)
    await store.close()
    return os.waitstatus_to_exitcode(status)

sys.exit(asyncio.run(main()))
"""


@pytest.mark.parametrize(("first", "status"), [("", 0), ("import lancedb", 1)], ids=["ours", "imported as it comes"])
def test_no_hook_of_lancedb_runs_in_a_child(tmp_path: Path, first: str, status: int) -> None:
    program = CHILD.format(first=first)
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == status


HELD_OFF = """
import os
from gateway.ask.forkless import without_hooks

def hook(name):
    def tell():
        os.write(1, name.encode())
    tell.__module__ = name
    return tell

with without_hooks("noisy"):
    os.register_at_fork(after_in_child=hook("noisy"))
    os.register_at_fork(after_in_child=hook("noisy.part"), before=hook("useful"))
    os.register_at_fork(after_in_child=hook("noisynot"))
os.register_at_fork(after_in_parent=hook("noisy"))
if not os.fork():
    os._exit(0)
os.wait()
"""


def test_hooks_of_anybody_else_are_kept_and_of_everybody_again_afterwards() -> None:
    said = subprocess.run([sys.executable, "-c", HELD_OFF], capture_output=True, text=True, check=True).stdout
    assert said.count("noisynot") == 1
    assert said.replace("noisynot", "").count("noisy") == 1, "the one that was registered afterwards"
    assert "useful" in said


def test_what_was_held_off_is_there_again_after_a_failure() -> None:
    before = os.register_at_fork

    with pytest.raises(ImportError), without_hooks("noisy"):
        raise ImportError("noisy")
    assert os.register_at_fork is before
