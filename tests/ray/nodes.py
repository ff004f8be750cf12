"""The cluster of `scripts/ray_local.py`, in a process of its own, as a test has nodes come and go."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
RESOURCE: Final = "device"


class Nodes:
    """`environment` is what a process has to have that is let in."""

    def __init__(self, count: int) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts/ray_local.py"), "--nodes", str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path} | self.environment,
            cwd=ROOT,
        )
        begun = self._answer()
        self.address: str = begun["address"]
        self.there: list[str] = begun["nodes"]

    def add(self, resource: str = RESOURCE) -> str:
        address = str(self._order(f"add {resource}")["added"])
        if resource == RESOURCE:
            self.there.append(address)
        return address

    def kill(self, address: str) -> None:
        assert self._order(f"kill {address}") == {"killed": address}
        self.there.remove(address)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(300)

    def _order(self, words: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(words.encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        """What else a library prints is passed by."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith(b"{"):
                return dict(json.loads(line))
        raise AssertionError(f"the cluster ended with {self._process.wait()}")
