"""Where it computes: the device, its threads, its precision, and how many processes share the work.

Several devices are one process each: `torchrun --nproc-per-node N -m trainer finetune ...` or `accelerate launch`. The
first process alone writes.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from trainer.errors import InvalidInput

DEVICE: Final = re.compile(r"auto|cpu|cuda(:\d+)?")
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Hardware:
    """`process` counts from 0, `spare` the CUDA devices that are there and not used."""

    device: str
    precision: str
    threads: int
    processes: int = 1
    process: int = 0
    spare: int = 0

    @property
    def first(self) -> bool:
        return self.process == 0


def find(device: str = "auto", precision: str = "auto", threads: int | None = None) -> Hardware:
    """The device found, its threads set. Raises InvalidInput for what this machine does not have."""
    if not DEVICE.fullmatch(device):
        raise InvalidInput(f"device {device!r}: expected auto, cpu, cuda or cuda:N")
    _show_only(device)
    import torch  # noqa: PLC0415  after the choice of the device, which CUDA reads once

    has_cuda = device != "cpu" and torch.cuda.is_available()
    if device.startswith("cuda") and not has_cuda:
        raise InvalidInput(f"device {device}: this machine has no such CUDA device; --device cpu trains without one")
    processes, process = _share(os.environ)
    chosen = "cuda" if has_cuda else "cpu"
    using = threads or _threads(os.environ, processes)
    torch.set_num_threads(using)
    spare = torch.cuda.device_count() - processes if has_cuda else 0
    return Hardware(chosen, _precision(precision, chosen), using, processes, process, max(0, spare))


def _show_only(device: str) -> None:
    """With cuda:N the process sees that device alone: training would take the first one else."""
    _, colon, number = device.partition(":")
    if colon:
        visible = [name for name in os.environ.get(VISIBLE, "").split(",") if name]
        if visible and int(number) >= len(visible):
            raise InvalidInput(f"device {device}: {VISIBLE} shows {len(visible)}")
        os.environ[VISIBLE] = visible[int(number)] if visible else number


def _share(environ: Mapping[str, str]) -> tuple[int, int]:
    return max(1, int(environ.get("WORLD_SIZE", "1") or 1)), int(environ.get("RANK", "0") or 0)


def _threads(environ: Mapping[str, str], processes: int) -> int:
    """OMP_NUM_THREADS where it is set; else the cores that this process may use, shared between the processes."""
    told = environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def _precision(asked: str, device: str) -> str:
    """On CPUs float32 unless asked for: half precision is slower there, but on the newest."""
    import torch  # noqa: PLC0415

    if asked != "auto":
        if asked == "float16" and device == "cpu":
            raise InvalidInput("precision float16: a CPU trains in float32 or bfloat16")
        return asked
    if device == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


@contextlib.contextmanager
def in_turn(hardware: Hardware) -> Iterator[None]:
    """The first process goes first; the others follow when it is done, and see what it has written."""
    if hardware.processes == 1:
        yield
        return
    from accelerate import PartialState  # noqa: PLC0415  heavy

    options = {"cpu": True, "backend": "gloo"} if hardware.device == "cpu" else {}
    with PartialState(**options).main_process_first():
        yield
