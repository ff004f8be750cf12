"""Environments of other people's clients: made once from what is locked, and with nothing of ours in them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.environments import ENVIRONMENTS, LOCKS, Environment, NotMade, Python, can_be_made, made, said


class Tree:
    """An environment that installs one file, which says what was locked."""

    name = "tree"

    def __init__(self, lock: Path) -> None:
        self.lock = lock
        self.interrupted = False

    def install(self, folder: Path, *, newest: bool = False) -> None:
        folder.mkdir(parents=True)
        (folder / "half").touch()
        if self.interrupted:
            raise NotMade("the network is gone")
        (folder / "half").rename(folder / "installed")
        (folder / "installed").write_text(self.lock.read_text())


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    lock = tmp_path / "tree.txt"
    lock.write_text("oak==1")
    return Tree(lock)


def test_the_same_lock_makes_nothing_again(tree: Tree, tmp_path: Path) -> None:
    folder = made(tree, tmp_path / "made")
    (folder / "installed").write_text("as it was")
    assert made(tree, tmp_path / "made") == folder
    assert (folder / "installed").read_text() == "as it was"


def test_another_lock_makes_it_anew_and_leaves_nothing_of_the_old(tree: Tree, tmp_path: Path) -> None:
    old = made(tree, tmp_path / "made")
    tree.lock.write_text("oak==2")
    new = made(tree, tmp_path / "made")
    assert (new / "installed").read_text() == "oak==2"
    assert not old.exists()


def test_what_was_interrupted_is_made_from_nothing(tree: Tree, tmp_path: Path) -> None:
    tree.interrupted = True
    with pytest.raises(NotMade):
        made(tree, tmp_path / "made")
    tree.interrupted = False
    assert sorted(path.name for path in made(tree, tmp_path / "made").iterdir()) == [".made", "installed"]


def test_a_python_environment_has_no_package_of_ours(tmp_path: Path) -> None:
    empty = Python("empty")
    empty.install(tmp_path / "empty", newest=True)
    python, _ = empty.command(tmp_path / "empty", "telling")
    found = subprocess.run([python, "-c", "import numpy"], capture_output=True, text=True, check=False)
    assert "No module named 'numpy'" in found.stderr


def test_an_installer_that_fails_is_told_in_its_own_words() -> None:
    with pytest.raises(NotMade, match="exit status 3\nno matching distribution"):
        said([sys.executable, "-c", "import sys; print('no matching distribution', file=sys.stderr); sys.exit(3)"])


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=list(ENVIRONMENTS))
def test_a_lock_says_the_version_of_every_package_and_names_no_registry(environment: Environment) -> None:
    text = environment.lock.read_text()
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.+]*", version) for version in environment.versions.values())
    assert "://" not in text
    if environment.lock.suffix == ".txt":
        assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.+]*", line) for line in text.splitlines())
    else:
        packages = json.loads(text)["packages"]
        assert all("integrity" in package for path, package in packages.items() if path)


def test_no_client_brings_torch() -> None:
    locked = {line.partition("==")[0] for lock in LOCKS.glob("*.txt") for line in lock.read_text().splitlines()}
    assert locked
    assert not locked & {"torch", "tensorflow", "jax"}


def test_every_lock_has_its_environment() -> None:
    assert {environment.lock for environment in ENVIRONMENTS.values()} == set(LOCKS.iterdir())


def test_without_node_only_its_own_clients_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    left_out = [name for name, environment in ENVIRONMENTS.items() if not can_be_made(environment)]
    assert left_out == ["openai-node", "ollama-js"]
