"""The shell scripts as somebody runs them, with programs of the test's own first on PATH."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SCRIPTS: Final = ROOT / "scripts"
DEADLINE: Final = 300.0  # seconds; generous, it only ends a test that hangs


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


def run(script: str | Path, *arguments: str | Path, path: Path | None = None, **variables: str) -> Ended:
    """Runs a script of scripts/, or one that is named by its path. `path` is a folder of programs that come first."""
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    command = [str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def program(folder: Path, name: str, body: str) -> Path:
    """An executable shell script, `folder`/`name`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/usr/bin/env bash\n{body}\n")
    file.chmod(0o755)
    return file
