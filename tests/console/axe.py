"""axe-core, which finds what keeps people from using a page: from npm, once, into the folder of caches. It is not among
our files: 650 kB of other people's code that only these tests run."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

VERSION: Final = "4.14.1"
INTEGRITY: Final = "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
FOLDER: Final = Path(__file__).parents[2] / ".cache" / "axe"
PATIENCE: Final = 300  # seconds
SEVERE: Final = {"serious", "critical"}


@cache
def source() -> str:
    """Skips the test where npm is not there or brings nothing."""
    archive = FOLDER / f"axe-core-{VERSION}.tgz"
    if not archive.exists():
        _fetch(archive)
    algorithm, _, wanted = INTEGRITY.partition("-")
    assert base64.b64encode(hashlib.new(algorithm, archive.read_bytes()).digest()).decode() == wanted
    with tarfile.open(archive) as opened:
        member = opened.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


def _fetch(archive: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("axe comes from npm, and there is no npm")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:  # other tests find it whole or not at all
        command = [npm, "pack", f"axe-core@{VERSION}", "--silent", f"--pack-destination={folder}"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"npm does not bring axe: {error}")
        (Path(folder) / archive.name).replace(archive)


async def findings(page: Any) -> list[str]:
    """What is serious or critical on the page as it is now."""
    await page.evaluate(source())
    found = json.loads(await page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(JSON.stringify)"))
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in SEVERE
        for node in each["nodes"]
    ]
