"""Fixtures of the tests of knowledge bases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ask.buckets import Bucket, serving


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """An S3-compatible server with an empty bucket; `bucket.fresh()` is a place in it."""
    with serving() as bucket:
        yield bucket
