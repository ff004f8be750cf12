"""Which host processes there are to be: from what was asked for, and from what the driver shows."""

from __future__ import annotations

import ctypes

import pytest

from gateway.engine import devices
from gateway.engine.devices import cuda_devices, find_devices
from gateway.settings import SettingsError


@pytest.fixture(params=[0, 1, 2])
def count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A machine with this many CUDA devices."""
    monkeypatch.setattr(devices, "cuda_devices", lambda: request.param)
    return int(request.param)


@pytest.mark.parametrize("wanted", ["auto", "AUTO", " auto ", "", ","])
def test_auto_is_every_cuda_device_or_the_cpu(wanted: str, count: int) -> None:
    assert find_devices(wanted) == ([f"cuda:{index}" for index in range(count)] or ["cpu"])


def test_cuda_is_every_cuda_device_and_never_the_cpu(count: int) -> None:
    if count:
        assert find_devices("cuda") == [f"cuda:{index}" for index in range(count)]
        return
    with pytest.raises(SettingsError, match="--device cuda: the CUDA driver finds no device"):
        find_devices("cuda")


def test_a_list_is_taken_in_its_order(count: int) -> None:
    assert find_devices("cpu") == ["cpu"]
    assert find_devices(" CPU:1 , cpu:0,") == ["cpu:1", "cpu:0"]
    if count == 2:
        assert find_devices("cuda:1,cpu,cuda:0") == ["cuda:1", "cpu", "cuda:0"]


def test_a_cuda_device_that_is_not_there_is_named(count: int) -> None:
    with pytest.raises(SettingsError, match="--device cpu,cuda:2: the CUDA driver does not find cuda:2"):
        find_devices("cpu,cuda:2")


@pytest.mark.parametrize("wanted", ["gpu", "cuda:", "cuda:x", "cpu,mps", "cpu auto", "auto,cpu", "cuda:-1"])
def test_what_is_no_device_is_named_with_the_flag(wanted: str) -> None:
    with pytest.raises(SettingsError, match=r"--device .*no such device"):
        find_devices(wanted)


def test_a_device_that_is_named_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match="named twice"):
        find_devices("cpu,cpu")


def test_without_a_driver_there_is_no_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert cuda_devices() == 0


class Driver:
    """As much of the CUDA driver as is asked: it wants cuInit first, and fails as the real one does."""

    def __init__(self, fault: int, count: int) -> None:
        self._fault = fault
        self._count = count
        self._ready = False

    def cuInit(self, flags: int) -> int:
        self._ready = self._fault == 0
        return self._fault

    def cuDeviceGetCount(self, count: object) -> int:
        if not self._ready:
            return 3  # CUDA_ERROR_NOT_INITIALIZED
        count._obj.value = self._count  # type: ignore[attr-defined]  # what ctypes.byref keeps
        return 0


@pytest.mark.parametrize(("fault", "expected"), [(0, 3), (100, 0), (999, 0)])
def test_the_driver_is_asked_and_a_driver_that_fails_has_no_device(
    fault: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(fault, 3))
    assert cuda_devices() == expected
