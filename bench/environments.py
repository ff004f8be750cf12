"""An environment of its own for each peer, below a cache folder that stays: made once, by pip, with the torch that we
run. A peer that does not install is no peer of this report, and the report says why."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.machine import library
from bench.rounds import told

PATIENCE: Final = 900.0  # seconds that one installation may take


class NotInstalled(RuntimeError):
    """pip could not; the message is its own."""


@dataclass(frozen=True, slots=True)
class Environment:
    """`packages` beside torch, as pip takes them."""

    name: str
    packages: tuple[str, ...]

    def ensure(self, cache: Path) -> Path:
        """The folder of its programs, made if need be. Raises NotInstalled."""
        folder = cache / "peers" / self.name
        stamp = folder / self._key()
        if stamp.exists():
            return folder / "bin"
        told(f"installing {self.name}: {' '.join(self.packages)}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        demand(sys.executable, "-m", "venv", str(folder))
        # torch by itself: left to the resolver, a machine without a GPU would get gigabytes of CUDA
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        demand(*pip, f"torch=={library('torch')}")
        demand(*pip, *self.packages)
        stamp.touch()
        return folder / "bin"

    def versions(self, cache: Path) -> dict[str, str]:
        """What is installed of what was asked for, and of what a model runs on."""
        python = cache / "peers" / self.name / "bin" / "python"
        listed = subprocess.run(
            [str(python), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"],
            capture_output=True,
            text=True,
            check=False,
        )
        found = dict(line.split("==", 1) for line in listed.stdout.splitlines() if "==" in line)
        wanted = {"torch", "transformers", "sentence-transformers", "onnxruntime", "fastapi", "infinity_emb"}
        return {name: found[name] for name in sorted(wanted & set(found))}

    def _key(self) -> str:
        asked = " ".join([library("torch"), sys.version.split()[0], *self.packages])
        return f".made-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"


def demand(*command: str) -> None:
    """Runs it to its end. Raises NotInstalled, with the end of what it said."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"not within {PATIENCE:.0f} s") from error
    if ran.returncode:
        lines = [line for line in ran.stderr.splitlines() if "WARNING" not in line]
        raise NotInstalled(" ".join(lines[-3:])[-300:] or f"status {ran.returncode}")
