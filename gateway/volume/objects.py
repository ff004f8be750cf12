"""Objects in a bucket, as S3 and what speaks like it have them. Blocking; threads may share it.

An object that is read is the one that was listed: every read names the ETag, so that a file is never made of two.
Credentials, region and address come from the environment, the way that Amazon's own tools take them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from gateway.parsing import BUCKET
from gateway.settings import SettingsError, variable

MOST: Final = 200_000  # objects of a listing
BLOCK: Final = 1024**2
CONNECT_SECONDS: Final = 3.0
READ_SECONDS: Final = 10.0  # without a byte
ATTEMPTS: Final = 2
CONNECTIONS: Final = 16
CHANGED: Final = {404, 409, 412, 416}  # statuses of an object that is another by now, or none
HOW: Final = "models in a bucket are an extra: pip install 'dropgate[bucket]'"


class Unreachable(Exception):
    """The bucket gave no answer that could be used. Another try may help."""


class Forbidden(Exception):
    """The bucket answers, and does not let us."""


class Gone(Exception):
    """The object is another than the one that was listed, or there is none any more."""


class Object(msgspec.Struct, frozen=True, gc=False):
    """`path` is relative to where the volume begins in the bucket; `modified` is in Unix seconds, by its clock."""

    path: str
    size: int
    etag: str
    modified: float


class Objects:
    """What lies below one URL, `s3://BUCKET` or `s3://BUCKET/PREFIX`."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError without the extra; nothing is asked yet."""
        self.url = url
        self._bucket, _, prefix = url.removeprefix(BUCKET).partition("/")
        self._prefix = prefix + "/" if prefix else ""
        self._client, self._errors = _client()

    def list(self) -> list[Object]:
        """All of them, in order of their keys. Raises Unreachable and Forbidden; never less than all there are."""
        found: list[Object] = []
        with self._translated():
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            ):
                found += [self._object(entry) for entry in page.get("Contents", ())]
                if len(found) > MOST:
                    raise Unreachable(f"{self.url} has over {MOST:,} objects")
        return found

    def read(self, wanted: Object, begin: int = 0, count: int | None = None) -> Iterator[bytes]:
        """Its bytes from `begin` on, in blocks. Raises Unreachable, Forbidden and Gone."""
        if begin >= wanted.size or count == 0:
            return
        end = "" if count is None else str(begin + count - 1)
        span = {"Range": f"bytes={begin}-{end}"} if begin or end else {}
        with self._translated():
            answer = self._client.get_object(
                Bucket=self._bucket, Key=self._prefix + wanted.path, IfMatch=wanted.etag, **span
            )
            with answer["Body"] as body:
                while block := body.read(BLOCK):
                    yield block

    def find(self, path: str) -> Object | None:
        """The object as it is now. Raises Unreachable and Forbidden."""
        try:
            with self._translated():
                head = self._client.head_object(Bucket=self._bucket, Key=self._prefix + path)
        except Gone:
            return None
        return Object(path, head["ContentLength"], head["ETag"], head["LastModified"].timestamp())

    def write(self, path: str, content: bytes, before: Object | None) -> bool:
        """In one step, and only if it is still what it was `before` (None: there was none); -> whether it was. Raises
        Unreachable and Forbidden."""
        condition = {"IfMatch": before.etag} if before else {"IfNoneMatch": "*"}
        try:
            with self._translated():
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=content, **condition)
        except Gone:
            return False
        return True

    def _object(self, entry: dict[str, Any]) -> Object:
        path = entry["Key"].removeprefix(self._prefix)
        return Object(path, entry["Size"], entry["ETag"], entry["LastModified"].timestamp())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        refused, *others = self._errors
        try:
            yield
        except refused as error:
            answer = error.response  # type: ignore[attr-defined]  # boto3 has no types
            status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = answer.get("Error", {}).get("Code", "")
            message = f"{self.url}: {code or status}"
            if status in CHANGED and code != "NoSuchBucket":
                raise Gone(message) from error
            raise (Forbidden if status in {401, 403} else Unreachable)(message) from error
        except tuple(others) as error:
            raise Unreachable(f"{self.url}: {error}") from error


def _client() -> tuple[Any, tuple[type[Exception], ...]]:
    """boto3's client, and what it and what it stands on raise; the first of these is a refusal."""
    try:
        import boto3.session  # noqa: PLC0415  0.3 s, which a gateway without a bucket does not need
        import botocore.config  # noqa: PLC0415
        import botocore.exceptions  # noqa: PLC0415
        import urllib3.exceptions  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(f"{HOW} ({error.name or error} is missing)") from error
    elsewhere = variable("AWS_ENDPOINT_URL_S3") or variable("AWS_ENDPOINT_URL")
    config = botocore.config.Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        max_pool_connections=CONNECTIONS,
        # other servers than Amazon's may have no name for each bucket, and may not know its newer checksums
        s3={"addressing_style": "path"} if elsewhere else {},
        request_checksum_calculation="when_required",
    )
    region = variable("AWS_REGION") or None  # boto3 alone knows it as AWS_DEFAULT_REGION
    try:
        client = boto3.session.Session().client("s3", region_name=region, config=config)
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise SettingsError(f"the bucket cannot be asked: {error}") from error
    failures = botocore.exceptions
    return client, (failures.ClientError, failures.BotoCoreError, urllib3.exceptions.HTTPError, OSError)
