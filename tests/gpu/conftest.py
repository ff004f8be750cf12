"""Everything in this folder needs a CUDA device, and is left out without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def device() -> Iterator[str]:
    """The device, as a host prepares it, and clean of what other tests left."""
    import torch

    from gateway.host import cuda, memory

    cuda.prepare("cuda:0")
    memory.release("cuda:0")
    yield "cuda:0"
    torch.cuda.set_per_process_memory_fraction(1.0)
    memory.release("cuda:0")
