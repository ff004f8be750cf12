"""A model hub, spoken to with huggingface-hub's own client: what a repository holds at one commit, and its bytes.

Only processes that pull import this module, so a gateway starts without the library. Endpoint and token are given,
never read from the environment, and every failure of the hub or of the network comes out as one of `gateway.errors`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import httpx2
import msgspec
from huggingface_hub import HfApi, ModelInfo, constants, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, and left out of its types

from gateway import __version__
from gateway.errors import GatewayError, HubFailed, HubForbids, HubModelNotFound, HubRevisionNotFound, HubUnreachable

CHUNK: Final = 1024**2  # bytes; what a cut connection loses at most
TRIES: Final = 5  # after a reset that brought no more bytes; the library itself tries again after all other cuts
LOOK_SECONDS: Final = 30.0

# the library asks the environment when it is imported; whoever pulls has asked the settings
constants.HF_HUB_OFFLINE = False
constants.DOWNLOAD_CHUNK_SIZE = CHUNK


class RemoteFile(msgspec.Struct, frozen=True):
    """A file of a repository. `size` is None where a mirror does not tell; `sha256` is known of large files, and
    `blob`, git's SHA-1, of all others."""

    path: str
    size: int | None
    sha256: str | None
    blob: str | None


class Repository(msgspec.Struct, frozen=True):
    """What the hub has under a name at one commit, which never changes."""

    name: str
    commit: str
    files: tuple[RemoteFile, ...]


class Hub:
    """One endpoint, with a token or without. Blocking."""

    def __init__(self, endpoint: str, token: str) -> None:
        self._endpoint = endpoint
        self._token = token or False  # False: not the one of some login on this machine either
        self._api = HfApi(endpoint, token=self._token, library_name="dropgate", library_version=__version__)

    def look(self, name: str, revision: str | None) -> Repository:
        """The repository at `revision`, or at the tip of its main branch.

        Raises HubModelNotFound, HubRevisionNotFound, HubForbids, HubUnreachable or HubFailed.
        """
        with self._translated(name, revision):
            info = self._api.model_info(name, revision=revision, files_metadata=True, timeout=LOOK_SECONDS)
            return _repository(name, info)

    def fetch(self, repository: Repository, file: RemoteFile, path: str, progress: Callable[[int], None]) -> None:
        """The bytes of `file`, into `path`; those that are there from an earlier try are not fetched again.

        `progress` is told how many there are. Raises as `look`, and OSError for what the disk refuses.
        """
        url = hf_hub_url(repository.name, file.path, revision=repository.commit, endpoint=self._endpoint)
        headers = build_hf_headers(token=self._token, library_name="dropgate", library_version=__version__)
        headers["Accept-Encoding"] = "identity"  # a range of packed bytes is of no use
        with self._translated(repository.name, repository.commit), _Growing(path, progress) as growing:
            tries = TRIES
            while tries:
                before, tries = growing.tell(), tries - 1
                try:
                    http_get(url, growing, resume_size=before, headers=headers, expected_size=file.size)
                except httpx2.ReadError:
                    tries = TRIES if growing.tell() > before else tries
                    if not tries:
                        raise
                else:
                    return

    @contextmanager
    def _translated(self, name: str, revision: str | None) -> Iterator[None]:
        try:
            yield
        except HfHubHTTPError as error:
            raise _refusal(error, name, revision, with_token=bool(self._token)) from error
        except httpx2.TransportError as error:
            raise HubUnreachable(f"the hub {self._endpoint} cannot be reached: {_said(error)}") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise HubFailed(f"{self._endpoint} does not answer as a hub does: {_said(error)}") from error
        except OSError as error:
            if error.errno is not None:  # the disk; the library's own have none
                raise
            raise HubFailed(f"{self._endpoint}: {_said(error)}") from error


class _Growing(io.FileIO):
    """A file that is appended to, and tells how long it is."""

    def __init__(self, path: str, progress: Callable[[int], None]) -> None:
        super().__init__(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+")
        self._progress = progress
        self._progress(self.seek(0, io.SEEK_END))

    def write(self, content: bytes, /) -> int:  # type: ignore[override]  # of all buffers, only bytes come here
        rest = memoryview(content)
        while rest:
            rest = rest[super().write(rest) :]
        self._progress(self.tell())
        return len(content)


def _repository(name: str, info: ModelInfo) -> Repository:
    files = tuple(
        RemoteFile(
            path=sibling.rfilename,
            size=sibling.size,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            blob=None if sibling.lfs else sibling.blob_id,
        )
        for sibling in info.siblings or ()
    )
    if not info.sha:
        raise ValueError("it names no commit")
    return Repository(name, info.sha, files)


def _refusal(error: HfHubHTTPError, name: str, revision: str | None, *, with_token: bool) -> GatewayError:
    """What a status of the hub means to whoever wanted the model."""
    status = error.response.status_code
    token = "the token that was given has no access" if with_token else "no token was given: set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return HubRevisionNotFound(f"the hub has {name}, and no revision {revision!r} of it", model=name)
    if isinstance(error, GatedRepoError):
        return HubForbids(f"{name} is gated: its terms are accepted on its page on the hub; {token}", model=name)
    missing = status == 404 and not isinstance(error, EntryNotFoundError)  # that one is a file which it had listed
    if missing or isinstance(error, RepositoryNotFoundError):
        return HubModelNotFound(f"the hub has no model {name}, or it is a private one; {token}", model=name)
    if status in {401, 403}:
        return HubForbids(f"the hub refuses access to {name} ({status}); {token}", model=name)
    return HubFailed(f"the hub answered {status} for {name}: {_said(error)}", model=name)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
