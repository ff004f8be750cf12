"""Which devices there are, found without torch: the gateway process never imports it."""

from __future__ import annotations

import ctypes
import re
from typing import Final

from gateway.settings import SettingsError

DEVICE: Final = re.compile(r"(cpu|cuda)(:\d+)?")


def find_devices(wanted: str) -> list[str]:
    """`auto`, `cpu`, `cuda`, or a list such as `cuda:0,cuda:1` -> one name for each host process.

    `auto` is every CUDA device, or the CPU where there is none; `cuda` is every CUDA device. `cpu:0,cpu:1` are two
    hosts on the one CPU. Raises SettingsError.
    """
    names = [name.strip() for name in wanted.lower().split(",") if name.strip()]
    if names in (["auto"], ["cuda"], []):
        found = [f"cuda:{index}" for index in range(cuda_devices())]
        if not found and names == ["cuda"]:
            raise SettingsError("--device cuda: the CUDA driver finds no device")
        return found or ["cpu"]
    if wrong := [name for name in names if not DEVICE.fullmatch(name)]:
        raise SettingsError(f"--device {wanted}: no such device: {', '.join(wrong)}")
    if len(set(names)) != len(names):
        raise SettingsError(f"--device {wanted}: a device is named twice")
    if missing := [name for name in names if name.startswith("cuda") and _index(name) >= cuda_devices()]:
        raise SettingsError(f"--device {wanted}: the CUDA driver does not find {', '.join(missing)}")
    return names


def _index(name: str) -> int:
    return int(name.partition(":")[2] or 0)


def cuda_devices() -> int:
    """How many devices the driver shows, CUDA_VISIBLE_DEVICES respected; 0 without a driver.

    Source: cuInit and cuDeviceGetCount of the CUDA driver API. They create no context.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
