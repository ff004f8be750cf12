"""Places for knowledge bases in a bucket of an S3-compatible server on loopback."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from tests.buckets import KEYS, Cloud


class Bucket:
    def __init__(self, cloud: Cloud) -> None:
        self.endpoint = cloud.endpoint
        self._name = cloud.bucket
        self._numbers = itertools.count()
        self.options = {
            "aws_endpoint": cloud.endpoint,
            "allow_http": "true",
            **{name.lower(): value for name, value in KEYS.items()},
        }

    def fresh(self) -> str:
        """The URI of a place in the bucket that nobody has used."""
        return f"s3://{self._name}/place-{next(self._numbers)}"


@contextmanager
def serving() -> Iterator[Bucket]:
    with Cloud("knowledge") as cloud:
        yield Bucket(cloud)
