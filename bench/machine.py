"""What the figures were measured on, and what else the machine did meanwhile.

A figure without its noise is no figure: every part of a report carries the load average it began with, the time that
a hypervisor took away, and what other processes than ours used.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

TICK: Final = os.sysconf("SC_CLK_TCK")
LIBRARIES: Final = ("torch", "sentence-transformers", "transformers", "tokenizers", "openvino", "nncf", "aiohttp")
INTERESTING: Final = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def describe() -> dict[str, Any]:
    """The machine and the versions, as a report carries them."""
    return {
        "cpu": _cpu_line("model name"),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [name for name in INTERESTING if name in _cpu_line("flags").split()],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := library(name))},
        "commit": _commit(),
    }


def library(name: str) -> str:
    """Its version, empty when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _cpu_line(key: str) -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith(key)), platform.machine())


class Noise:
    """`with Noise() as noise`: what else ran meanwhile. `figures` are there at the end of it."""

    def __enter__(self) -> Self:
        self._load = os.getloadavg()[0]
        self._began = time.monotonic()
        self._stolen, self._busy = _machine_seconds()
        self.figures: dict[str, float] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stolen, busy = _machine_seconds()
        seconds = time.monotonic() - self._began
        cores = os.cpu_count() or 1
        self.figures = {
            "seconds": seconds,
            "load_average_before": self._load,
            "stolen_share": (stolen - self._stolen) / (seconds * cores),
            "busy_share": (busy - self._busy) / (seconds * cores),
        }


def _machine_seconds() -> tuple[float, float]:
    """CPU seconds since boot of all cores together: taken by the hypervisor, and spent by anybody."""
    with open("/proc/stat", encoding="utf-8") as stream:
        user, nice, system, _idle, _wait, interrupts, soft, stolen = (
            int(word) for word in stream.readline().split()[1:9]
        )
    return stolen / TICK, (user + nice + system + interrupts + soft) / TICK


def cpu_seconds(pid: int) -> float:
    """What a living process has used so far, itself and those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICK


def running_seconds(pid: int) -> float:
    """What the threads of a living process that are there now have run so far, to the nanosecond: what a system at rest
    uses is lost in ticks. Source: schedstat, https://docs.kernel.org/scheduler/sched-stats.html"""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
