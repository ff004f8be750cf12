from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.buckets import Cloud


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as running:
        yield running
