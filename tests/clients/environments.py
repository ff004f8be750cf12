"""The environments of other people's clients: each client from its registry's package, and nothing of ours beside it.

An environment is a folder, made from its lock, and named by what is in the lock: the same lock makes nothing again.

    python -m tests.clients.environments                 make those that are not there
    python -m tests.clients.environments --renew [NAME]  take the newest versions, and write the locks anew
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

HERE: Final = Path(__file__).parent
LOCKS: Final = HERE / "locks"
PROGRAMS: Final = HERE / "programs"
FOLDER: Final = Path(os.environ.get("CLIENTS") or HERE.parents[1] / ".cache" / "clients")
AT_ONCE: Final = 4  # downloads wait, and unpacking works
PIP: Final = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


class NotMade(Exception):
    """The registry has refused, or cannot be reached; the message is the end of what the installer said."""


class Environment(Protocol):
    name: str

    @property
    def lock(self) -> Path:
        """What is installed, to the last version."""

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages that were asked for, by the lock."""

    def install(self, folder: Path, *, newest: bool = False) -> None: ...

    def renew(self, folder: Path) -> None:
        """Writes the lock from what is installed in `folder`."""

    def command(self, folder: Path, program: str) -> list[str]: ...


class Python:
    """A virtual environment. Wheels only: nothing is built, and no code of a package runs while it is installed."""

    def __init__(self, name: str, *packages: str) -> None:
        self.name = name
        self.packages = packages

    @property
    def lock(self) -> Path:
        return LOCKS / f"{self.name}.txt"

    @property
    def versions(self) -> dict[str, str]:
        locked = dict(line.split("==") for line in self.lock.read_text().splitlines())
        return {name: locked[name] for package in self.packages for name in [package.partition("[")[0]]}

    def install(self, folder: Path, *, newest: bool = False) -> None:
        said([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        wanted = self.packages if newest else [*self.packages, "-c", str(self.lock)]
        if wanted:
            said([*self._pip(folder), "install", "--quiet", "--no-compile", "--only-binary=:all:", *wanted])

    def renew(self, folder: Path) -> None:
        self.lock.write_text(said([*self._pip(folder), "freeze"]).lower().replace("_", "-"))

    def command(self, folder: Path, program: str) -> list[str]:
        return [str(folder / "bin" / "python"), str(PROGRAMS / f"{program}.py")]

    def _pip(self, folder: Path) -> list[str]:
        return [*PIP, "--python", str(folder / "bin" / "python")]


class Node:
    """An npm project of one package, whose lock names no registry."""

    def __init__(self, name: str, package: str) -> None:
        self.name = name
        self.package = package

    @property
    def lock(self) -> Path:
        return LOCKS / f"{self.name}.json"

    @property
    def versions(self) -> dict[str, str]:
        installed = json.loads(self.lock.read_text())["packages"]
        return {self.package: installed[f"node_modules/{self.package}"]["version"]}

    def install(self, folder: Path, *, newest: bool = False) -> None:
        folder.mkdir(parents=True)
        wanted = "*" if newest else self.versions[self.package]
        described = {"private": True, "name": self.name, "dependencies": {self.package: wanted}}
        (folder / "package.json").write_text(json.dumps(described))
        if not newest:
            shutil.copy(self.lock, folder / "package-lock.json")
        quietly = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        said(["npm", "install" if newest else "ci", "--omit-lockfile-registry-resolved", *quietly], folder)

    def renew(self, folder: Path) -> None:
        lock = json.loads((folder / "package-lock.json").read_text())
        (package,) = (each for path, each in lock["packages"].items() if path == f"node_modules/{self.package}")
        lock["packages"][""]["dependencies"][self.package] = package["version"]  # and no longer "*"
        self.lock.write_text(json.dumps(lock, indent=2) + "\n")

    def command(self, folder: Path, program: str) -> list[str]:
        """Node looks for packages from where a program lies, so it is copied there."""
        for name in (f"{program}.mjs", "telling.mjs"):
            shutil.copy(PROGRAMS / name, folder)
        return ["node", str(folder / f"{program}.mjs")]


ENVIRONMENTS: Final[dict[str, Environment]] = {
    each.name: each
    for each in (
        Python("chroma", "chromadb", "ollama"),  # the largest first: it takes the longest
        Python("llama-index", "llama-index-embeddings-text-embeddings-inference"),
        Python("langchain", "langchain-openai", "transformers"),
        Python("haystack", "haystack-ai"),
        Python("triton", "tritonclient[http]"),
        Python("openai-python", "openai"),
        Python("huggingface-hub", "huggingface-hub", "numpy"),
        Python("cohere", "cohere"),
        Python("ollama-python", "ollama"),
        Node("openai-node", "openai"),
        Node("ollama-js", "ollama"),
    )
}


def can_be_made(environment: Environment) -> bool:
    return isinstance(environment, Python) or bool(shutil.which("npm") and shutil.which("node"))


def made(environment: Environment, root: Path = FOLDER) -> Path:
    """The environment's folder, which has all of its lock: what was interrupted bears another name."""
    content = f"{environment.lock.read_text()}{sys.version_info[:2]}"
    folder = root / f"{environment.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    stamp = folder / ".made"
    if not stamp.exists():
        for older in root.glob(f"{environment.name}-" + "?" * 12):
            shutil.rmtree(older)
        environment.install(folder)
        stamp.touch()
    return folder


def renewed(environment: Environment, root: Path = FOLDER) -> Path:
    folder = root / f"{environment.name}-newest"
    shutil.rmtree(folder, ignore_errors=True)
    environment.install(folder, newest=True)
    environment.renew(folder)
    shutil.rmtree(folder)
    return made(environment, root)


def said(command: Sequence[str], folder: Path | None = None) -> str:
    """What it said on standard output. Raises NotMade with what it said instead."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise NotMade(f"{' '.join(command[:6])} ...: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.environments", description=__doc__.split("\n")[0])
    parser.add_argument("--renew", action="store_true", help="take the newest versions, and write the locks anew")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *ENVIRONMENTS], help="only these")
    options = parser.parse_args()
    make = renewed if options.renew else made
    wanted = [ENVIRONMENTS[name] for name in options.names or ENVIRONMENTS]
    environments = [each for each in wanted if can_be_made(each)]
    begin = time.monotonic()
    try:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(functools.partial(_tell, make), environments))
    except NotMade as error:
        print(error, file=sys.stderr)
        return 1
    missing = len(wanted) - len(environments)
    print(f"{len(environments)} environments in {FOLDER}, {time.monotonic() - begin:.0f} s", end="")
    print(f"; without node and npm {missing} are left out" if missing else "")
    return 0


def _tell(make: Callable[[Environment], Path], environment: Environment) -> None:
    begin = time.monotonic()
    make(environment)
    versions = ", ".join(f"{package} {version}" for package, version in environment.versions.items())
    print(f"{environment.name}: {versions}, {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
