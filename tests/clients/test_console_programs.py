"""The programs that the console shows, run as they stand by somebody who has OpenAI's client."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest

from tests.clients.asked import Target
from tests.clients.conftest import TEXTS
from tests.clients.environments import ENVIRONMENTS, made

pytestmark = [pytest.mark.clients, pytest.mark.asyncio(loop_scope="session")]
SNIPPETS: Final = Path(__file__).parents[2] / "gateway/web/pages/console/snippets.js"
PRINTED: Final = "\nimport json\nprint(json.dumps(vectors))"


def programs(folder: Path, request: dict[str, Any]) -> dict[str, str]:
    """What the page makes of a request, by the names of its tabs."""
    module = folder / "snippets.mjs"
    shutil.copy(SNIPPETS, module)
    script = f"import {{ embedding }} from {json.dumps(str(module))};\n"
    script += f"console.log(JSON.stringify(embedding({json.dumps(request)})));"
    done = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, check=True)
    return {each["name"]: each["code"] for each in json.loads(done.stdout)}


@pytest.mark.skipif(not shutil.which("node"), reason="the console's own code makes the programs, and runs in node here")
@pytest.mark.parametrize("name", ["openai-python", "Python"])
@pytest.mark.parametrize("dimensions", [None, 128])
async def test_a_program_of_the_console_gets_the_vectors(
    target: Target, expected: npt.NDArray[np.float32], tmp_path: Path, name: str, dimensions: int | None
) -> None:
    options = {"dimensions": dimensions} if dimensions else {}
    request = {"base": target.url, "texts": TEXTS, "models": [target.model], "options": options, "keyed": True}
    program = programs(tmp_path, request)[name]
    assert target.key not in program
    if name == "Python":
        python = Path(sys.executable)  # our own tests have httpx
    else:
        python = await asyncio.to_thread(made, ENVIRONMENTS["openai-python"]) / "bin" / "python"
    done = await asyncio.to_thread(
        subprocess.run,
        [str(python), "-c", program + PRINTED],
        capture_output=True,
        text=True,
        env={**os.environ, "DROPGATE_KEY": target.key},
    )
    assert done.returncode == 0, done.stderr
    vectors = np.array(json.loads(done.stdout.splitlines()[-1]), np.float32)
    wanted = expected[:, : vectors.shape[1]] / np.linalg.norm(expected[:, : vectors.shape[1]], axis=1, keepdims=True)
    assert vectors.shape == (len(TEXTS), dimensions or expected.shape[1])
    assert (vectors * wanted).sum(axis=1).min() > 0.99999
