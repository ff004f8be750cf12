"""Knowledge bases in a bucket, with the settings that `scripts/local-dev.sh up --with bucket` gives to the gateway."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.ask.buckets import serving as bucket_server
from tests.e2e.test_knowledge import MODEL, NOTES, put, search
from tests.e2e.test_knowledge import serving as gateway_over
from tests.scripted import DEADLINE, ROOT, program, run

pytest.importorskip("lancedb", reason="the extra `ask` is not installed")

ENGINE: Final = """
[[ $1 == info || $2 == version ]] && exit 0
env >"$TOLD"
"""


def settings_of_the_profile(folder: Path) -> dict[str, str]:
    """The gateway's environment, as compose makes it of its file and of what the script sets."""
    program(folder, "docker", ENGINE)
    told = folder / "told"
    run("local-dev.sh", "up", "--with", "bucket", path=folder, TOLD=str(told), WAIT="0", DROPGATE_PORT="1")
    given = dict(line.split("=", 1) for line in told.read_text().splitlines() if "=" in line)

    def value(found: re.Match[str]) -> str:
        return given.get(found[1]) or found[2]

    declared = yaml.safe_load((ROOT / "docker-compose.local.yml").read_text())["services"]["gateway"]["environment"]
    return {key: re.sub(r"\$\{(\w+):-([^}]*)\}", value, text) for key, text in declared.items()}


async def test_what_one_gateway_puts_into_the_bucket_of_the_profile_another_finds(tmp_path: Path) -> None:
    variables = settings_of_the_profile(tmp_path / "engine")
    assert variables["DROPGATE_KNOWLEDGE_DIR"] == "s3://dropgate/knowledge"
    with bucket_server() as server:
        made = urllib.request.Request(f"{server.endpoint}/dropgate", method="PUT")  # SeaweedFS makes it by S3_BUCKET
        urllib.request.urlopen(made, timeout=DEADLINE).close()
        assert variables["AWS_ENDPOINT_URL"].startswith("http://")
        variables["AWS_ENDPOINT_URL"] = server.endpoint
        for number in range(2):
            running = gateway_over(tmp_path / str(number))
            running.environment |= variables
            async with running as gateway:
                await gateway.wait_for(MODEL, "ready", "loaded")
                if number == 0:
                    added = await put(gateway, "ring", {"notes.md": NOTES})
                    assert added.body["counts"] == {"added": 1}
                found = await search(gateway, "ring", "what was exchanged in the injector?")
                assert found[0]["name"] == "notes.md"
            assert not list((tmp_path / str(number) / "state" / "knowledge").glob("*"))
