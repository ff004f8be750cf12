"""aliases.toml in a bucket: read from the last look as any other, and written only over what was read."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.catalog.alias_file import AliasFile
from gateway.catalog.aliases import FILE, AliasFault
from gateway.volume.bucket import BucketVolume
from gateway.volume.objects import Forbidden, Gone, Object, Unreachable
from gateway.volume.tables import CAP


class BucketAliasFile(AliasFile):
    """Blocking; for one thread."""

    def __init__(self, volume: BucketVolume, state_dir: str) -> None:
        super().__init__(volume.root, state_dir)
        self._objects = volume.objects
        self._found: Object | None = None  # whose text was read last

    def text(self) -> str:
        with _translated():
            self._found = self._objects.find(FILE)
            content = b"".join(self._objects.read(self._found, 0, CAP + 1)) if self._found else b""
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise AliasFault(f"{FILE}: {error}") from error

    def replace(self, before: str, text: str) -> bool:
        """Whoever else writes it meanwhile wins: the answer is False then, and nothing has changed."""
        with _translated():
            return self._objects.write(FILE, text.encode(), self._found)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (Unreachable, Forbidden, Gone) as error:
        raise OSError(errno.EIO, str(error)) from error
