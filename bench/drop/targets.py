"""What a copy is dropped onto: a place to copy to, and which contents were accepted there.

Anything that serves dropped directories can be one. Here are our own scan, settle and store, on a directory of
their own with real clocks, and a gateway that runs.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bench.drop.contents import every_file, hashes, name_of
from gateway.model import ModelId
from gateway.settings import Settings
from gateway.volume.copying import Changed, Refused
from gateway.volume.directory import Directory
from gateway.volume.evidence import VolumeEvidence
from gateway.volume.generations import Store
from gateway.volume.settle import Evidence, Settler, Snapshot
from gateway.volume.source import scan
from gateway.volume.writers import Writer

GLANCE: Final = 0.05  # seconds between looks
MODEL: Final = ModelId("finetuned", "m")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """One content that was taken for whole. `files` as they were taken, where the target can show them."""

    name: str
    files: dict[str, str] | None = None


class Target(Protocol):
    @property
    def place(self) -> Path:
        """The model directory to copy to; its parent is there, it is not."""

    def accepted(self) -> list[Acceptance]:
        """Every content that has been accepted at the place so far, oldest first. Called again and again."""

    def close(self) -> None:
        """Leaves nothing behind."""


class Unseen:
    """The evidence of a gateway that sees no process: writers in other containers and on other machines."""

    def __init__(self, root: str) -> None:
        self._evidence = VolumeEvidence(root)
        self.begin = self._evidence.begin
        self.hole = self._evidence.hole
        self.checked = self._evidence.checked

    def writer(self, directory: Directory, changed: float) -> Writer | None:
        return None


class Pipeline:
    """Scan, settle, judge and store, as the gateway has them; every look is ours to make."""

    def __init__(self, base: Path, settings: Settings, *, seen: bool, evidence: Evidence | None = None) -> None:
        self._base = base
        self._root = base / "models"
        self.place = self._root / "finetuned" / "m"
        self.place.parent.mkdir(parents=True)
        facts = evidence or (VolumeEvidence(str(self._root)) if seen else Unseen(str(self._root)))
        self._settler = Settler(settings, facts)
        self._store = Store(str(base / "state"))
        self._judged = ""
        self._inode: int | None = None
        self._accepted: list[Acceptance] = []

    def accepted(self) -> list[Acceptance]:
        """Makes one look."""
        served = {MODEL: self._inode} if self._accepted else {}
        found = scan(str(self._root))
        snapshot = self._settler.observe(found, now=time.monotonic(), wall=time.time(), served=served)
        self._reconcile(snapshot)
        return self._accepted

    def _reconcile(self, snapshot: Snapshot) -> None:
        seen = snapshot.observations.get(MODEL)
        if seen is None or not seen.settled or seen.directory.fingerprint == self._judged:
            return
        self._judged = seen.directory.fingerprint
        if seen.reason is None:
            self._take(seen.directory)

    def _take(self, directory: Directory) -> None:
        try:
            generation = self._store.accept(directory, str(self._root))
        except Refused:
            return
        except Changed:
            self._settler.forget(MODEL)
            self._judged = ""
            return
        self._inode = directory.inode
        taken = Path(generation.path)  # what is in the store is hashed here once more, and not believed
        files = hashes(taken, every_file(taken))
        name = name_of(files)
        if not self._accepted or self._accepted[-1].name != name:
            self._accepted.append(Acceptance(name, files))

    def close(self) -> None:
        for generation in self._store.digests():
            self._store.remove(generation)
        shutil.rmtree(self._base, ignore_errors=True)


class Served:
    """A name on the volume of a gateway that runs. What it accepts is read from its own events."""

    def __init__(self, url: str, models: Path, name: str) -> None:
        self.place = models / "finetuned" / name
        self.place.parent.mkdir(parents=True, exist_ok=True)
        self._model = f"finetuned/{name}"
        self._accepted: list[Acceptance] = []
        self._stream = urllib.request.urlopen(f"{url}/events", timeout=600)
        threading.Thread(target=self._listen, daemon=True).start()

    def accepted(self) -> list[Acceptance]:
        return list(self._accepted)

    def _listen(self) -> None:
        happened = ""
        try:
            for line in self._stream:
                if line.startswith(b"event: "):
                    happened = line.removeprefix(b"event: ").decode().strip()
                elif line.startswith(b"data: ") and happened in {"model_accepted", "model_swapped"}:
                    self._hear(json.loads(line.removeprefix(b"data: ")))
        except (OSError, ValueError, AttributeError):  # closed by us, while it was being read
            return

    def _hear(self, event: dict[str, object]) -> None:
        if event["model"] == self._model:
            self._accepted.append(Acceptance(str(event["generation"])))

    def close(self) -> None:
        self._stream.close()
        shutil.rmtree(self.place, ignore_errors=True)
