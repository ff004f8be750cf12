"""Where verbs put what they make: whole or not at all, and nothing stays of one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import DEADLINE
from trainer.errors import InvalidInput
from trainer.output import staged

KILLED = """
import os, signal, sys
from pathlib import Path
from trainer.output import staged
with staged(Path(sys.argv[1]), overwrite=True) as stage:
    (stage / "half").write_text("made")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def kill_while_it_makes(place: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(place)], check=False, timeout=DEADLINE)
    assert done.returncode == -signal.SIGKILL
    assert len(names(place.parent)) > 1  # it did leave something


def test_what_was_killed_leaves_nothing_to_the_next_one(tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    kill_while_it_makes(place)
    with pytest.raises(InvalidInput, match="--overwrite replaces it"), staged(place):
        raise AssertionError("there is something there")
    assert names(tmp_path) == ["out"]
    kill_while_it_makes(place)
    with staged(place, overwrite=True) as stage:
        (stage / "whole").write_text("made")
    assert names(tmp_path) == ["out"]
    assert names(place) == ["whole"]


def test_of_two_that_make_at_once_none_takes_the_others_work(tmp_path: Path) -> None:
    with staged(tmp_path / "one") as one:
        (one / "mine").touch()
        with staged(tmp_path / "other") as other:
            (other / "theirs").touch()
    assert (names(tmp_path / "one"), names(tmp_path / "other")) == (["mine"], ["theirs"])
    assert names(tmp_path) == ["one", "other"]


def make_half(place: Path) -> None:
    with staged(place, overwrite=True) as stage:
        (stage / "half").touch()
        (stage / "absent").read_bytes()


def test_what_fails_leaves_what_stood_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(FileNotFoundError):
        make_half(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["old"]


def test_what_is_made_may_be_read_by_another_user(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as stage:
        os.close(os.open(stage / "weights", os.O_CREAT | os.O_WRONLY, 0o600))
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "out" / "weights").stat().st_mode & 0o777 == 0o666 & ~umask
