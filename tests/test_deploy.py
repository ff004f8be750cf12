"""What stands in deploy/ can be started as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway import cli, settings

UNIT = Path(__file__).parents[1] / "deploy" / "dropgate.service"


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def test_the_service_starts_the_gateway_with_flags_that_there_are() -> None:
    program, *arguments = shlex.split(values("ExecStart")[0])
    assert Path(program).name == "gateway"
    options = cli.parser().parse_args(arguments)
    given = {name: value for name, value in vars(options).items() if name in settings.Settings.__slots__ and value}
    chosen = settings.load(given, environment={})
    assert chosen.models_dir.startswith("/var/lib/dropgate/")


def test_the_service_gives_requests_in_flight_the_time_to_finish() -> None:
    chosen = settings.load({}, environment={})
    assert float(values("TimeoutStopSec")[0]) > chosen.drain_timeout + 5  # a host has five seconds more


def test_systemd_takes_the_unit() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    found = subprocess.run(["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, check=False)
    ours = "not executable"  # /opt/dropgate is not on this machine
    assert [line for line in found.stderr.splitlines() if ours not in line] == []
