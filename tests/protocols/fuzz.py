"""Asks a running gateway whatever its own description allows, and much that it does not: no answer may be a 500, differ
from its description, or fail to come.

    python -m tests.protocols.fuzz --examples 520       20,000 requests and more, in some minutes; `make fuzz`
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests import making
from tests.protocols.fuzz_hooks import BASES, NOTE
from tests.running import RunningGateway

SEED: Final = 5
PATIENCE: Final = 300  # seconds for one answer, of which each takes milliseconds
CHECKS: Final = ("status_code", "content_type", "response_headers", "response_schema")
# 503 and 507 are answers of their own: a model that is not loaded, a text that does not fit
CONFIG: Final = """
[checks.not_a_server_error]
expected-statuses = ["2XX", "4XX", 501, 502, 503, 504, 507]
"""


def volume(root: Path) -> None:
    making.encoder(root / "finetuned" / "physics", seed=1)
    making.encoder(root / "finetuned" / "prompted", seed=2, prompts={"query": "query: "}, default_prompt="query")
    making.encoder(root / "finetuned" / "long", seed=3, normalize=False)
    making.reranker(root / "finetuned" / "judge", seed=4)
    (Path(making.encoder(root / "finetuned" / "half", seed=5)) / "model.safetensors").write_bytes(b"")


async def ask(url: str, base: Path, examples: int, phases: str, *, seed: int, only: str) -> tuple[int, str]:
    """schemathesis's exit status, and what it says."""
    (base / "schemathesis.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(base / "schemathesis.toml"), "run"]
    command += [
        f"{url}/openapi.json",
        f"--seed={seed}",
        "--workers=1",  # of two threads in ast.parse, which Hypothesis calls, CPython 3.11 fails one now and then
        f"--max-examples={examples}",
        f"--phases={phases}",
    ]
    command += ["--checks=not_a_server_error," + ",".join(f"{check}_conformance" for check in CHECKS)]
    command += [f"--request-timeout={PATIENCE}", "--continue-on-failure", "--no-color", "--warnings=off"]
    command += ["--suppress-health-check=all", "--generation-database=none"]
    command += ["--exclude-path=/events", "--exclude-path=/console/live"]  # which do not end
    command += [f"--include-path-regex={only}"] if only else []
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.protocols.fuzz_hooks", "COLUMNS": "200"}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")


async def fuzz(
    base: Path, examples: int, phases: str = "examples,coverage,fuzzing", seed: int = SEED, only: str = ""
) -> tuple[int, int, str]:
    """Requests that were answered, schemathesis's exit status, and all that was found wrong."""
    volume(base / "models")
    options = ("--device=cpu", "--default-model=finetuned/physics", "--hub-offline", f"--request-timeout={PATIENCE}")
    async with RunningGateway(base / "models", base / "state", *options) as gateway:
        await gateway.wait_for("huggingface:finetuned/judge", "ready", "loaded")
        await gateway.wait_for("huggingface:finetuned/half", "rejected")
        for name in BASES:
            note = {"documents": [{"name": NOTE, "content": "# Beam\n\nThe beam was stable. So was the vacuum."}]}
            async with gateway.session.post(f"/kb/{name}/documents", json=note) as reply:
                assert reply.status == 200, await reply.text()
        status, said = await ask(gateway.url, base, examples, phases, seed=seed, only=only)
        async with gateway.session.get("/healthz") as reply:
            assert reply.status == 200
        lines = [record for record in gateway.log if record.get("event") == "request"]
        broken = [record for record in gateway.log if record.get("traceback") or record.get("code") == "internal"]
    return len(lines), status, said + "".join(f"\n{record}" for record in broken)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=520, help="requests for each operation, at most")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", default="", metavar="REGEX", help="of paths: '^/(kb|ask)'; all without")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        count, status, said = asyncio.run(fuzz(Path(base), asked.examples, seed=asked.seed, only=asked.only))
    print(said)
    print(f"{count} requests, seed {asked.seed}: {'all is well' if status == 0 else 'something is wrong'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
