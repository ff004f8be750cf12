"""A model hub, huggingface.co or another that speaks as it does: a model is pushed to it, or pulled from it.

What is pushed is what would be published, by the same allow-list, and never a pickle. Both directions go on after a
cut: a large file that the hub has is not sent again, and one that has come in part is fetched from there. Endpoint and
token come from the environment, the token from nowhere else.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo, constants, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, and left out of its types

from trainer import __version__
from trainer.contents import check, model_directory, model_files, wanted
from trainer.errors import InvalidInput, NotAModel, TrainerError

ENDPOINT: Final = "https://huggingface.co"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
KEPT_THERE: Final = {"README.md", ".gitattributes"}  # of what the hub has and the model has not
PICKLES: Final = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
CHUNK: Final = 64 * 1024  # bytes; what a cut connection loses at most
LOOK_SECONDS: Final = 30.0
TRIES: Final = 5  # after a cut that brought no more bytes

# the library asks the environment when it is imported; `Hub.of` asks it when it is used. Xet needs a server of its own,
# which hubs other than huggingface.co have not
constants.HF_HUB_OFFLINE = False
constants.HF_HUB_DISABLE_XET = True
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what it tries again is its own affair

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """`sha256` is known of large files, and `blob`, git's SHA-1, of all others."""

    path: PurePosixPath
    size: int | None
    sha256: str | None
    blob: str | None


@dataclass(frozen=True, slots=True)
class Repository:
    """What the hub has under a name at one commit, which never changes."""

    name: str
    commit: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class Pushed:
    url: str
    commit: str
    files: int
    bytes: int


class Hub:
    """One endpoint, with a token or without. Blocking. Every failure comes out as a TrainerError with its reason."""

    def __init__(self, endpoint: str, token: str) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._token: str | bool = token or False  # False: not the one of some login on this machine either
        self._api = HfApi(self.endpoint, token=self._token, library_name="dropgate", library_version=__version__)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Hub:
        """Raises InvalidInput where no hub is to be asked."""
        if environment.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
            raise InvalidInput("HF_HUB_OFFLINE is set: no hub is asked")
        return cls(environment.get("HF_ENDPOINT") or ENDPOINT, environment.get("HF_TOKEN", ""))

    def push(
        self,
        source: Path,
        name: str,
        *,
        public: bool = False,
        message: str = "",
        progress: Progress = lambda done, total: None,
    ) -> Pushed:
        """One commit with the model in `source`; the repository is made where there is none, a private one.

        Weights and configurations that the repository has and the model has not are removed: half of an older model
        must not lie beside it.
        """
        directory = model_directory(source)
        files = model_files(directory)
        if pickled := [path for path in files if path.suffix in PICKLES]:
            raise InvalidInput(f"{directory / pickled[0]}: a pickle is never pushed; save the model with safetensors")
        check(directory, files)
        with self._translated(name, None):
            self._api.create_repo(name, private=not public, exist_ok=True)
            before = self._api.model_info(name, revision="main", timeout=LOOK_SECONDS)
            if before.private is False and not public:
                raise InvalidInput(f"{name} is a public repository: --public says that everybody may have the model")
            return self._commit(directory, files, before, message or f"trainer push of {directory.name}", progress)

    def _commit(
        self, directory: Path, files: list[PurePosixPath], before: ModelInfo, message: str, progress: Progress
    ) -> Pushed:
        total = sum((directory / path).stat().st_size for path in files)
        with contextlib.ExitStack() as opened:
            done = _Sum(total, progress)
            sent = [opened.enter_context(_Reading(directory / path, done)) for path in files]
            adding = [CommitOperationAdd(str(path), each) for path, each in zip(files, sent, strict=True)]
            for each, operation in zip(sent, adding, strict=True):
                each.counts = True
                self._api.preupload_lfs_files(before.id, [operation], revision="main", free_memory=False)
                each.finish()
            stale = wanted(PurePosixPath(each.rfilename) for each in before.siblings or ()) - set(files)
            removing = [CommitOperationDelete(str(path)) for path in sorted(stale) if str(path) not in KEPT_THERE]
            made = self._api.create_commit(
                before.id, [*removing, *adding], commit_message=message, parent_commit=before.sha, revision="main"
            )
        return Pushed(f"{self.endpoint}/{before.id}", made.oid, len(files), total)

    def look(self, name: str, revision: str) -> Repository:
        with self._translated(name, revision):
            info = self._api.model_info(name, revision=revision, files_metadata=True, timeout=LOOK_SECONDS)
            if not info.sha:
                raise ValueError("it names no commit")
            return Repository(name, info.sha, tuple(_remote(sibling) for sibling in info.siblings or ()))

    def fetch(self, found: Repository, file: RemoteFile, path: Path, progress: Callable[[int], None]) -> None:
        """The bytes of a file; those that are there from an earlier try are not fetched again."""
        url = hf_hub_url(found.name, str(file.path), revision=found.commit, endpoint=self.endpoint)
        headers = build_hf_headers(token=self._token, library_name="dropgate", library_version=__version__)
        headers["Accept-Encoding"] = "identity"  # a range of packed bytes is of no use
        constants.DOWNLOAD_CHUNK_SIZE = CHUNK
        with self._translated(found.name, found.commit), _Growing(path, progress) as growing:
            tries = TRIES
            while tries:
                before, tries = growing.tell(), tries - 1
                if before and before == file.size:
                    return
                try:
                    http_get(url, growing, resume_size=before, headers=headers, expected_size=file.size)
                except httpx2.ReadError:
                    tries = TRIES if growing.tell() > before else tries
                    if not tries:
                        raise
                else:
                    return

    @contextlib.contextmanager
    def _translated(self, name: str, revision: str | None) -> Iterator[None]:
        try:
            yield
        except TrainerError:
            raise
        except HfHubHTTPError as error:
            raise _refusal(error, name, revision, with_token=bool(self._token)) from error
        except httpx2.TransportError as error:
            raise TrainerError(f"the hub {self.endpoint} cannot be reached: {_said(error)}") from error
        except RuntimeError as error:  # the library's, around what went wrong in one of its threads
            cause = error.__cause__
            if isinstance(cause, HfHubHTTPError):
                raise _refusal(cause, name, revision, with_token=bool(self._token)) from error
            raise TrainerError(f"the hub {self.endpoint} did not take the files: {_said(cause or error)}") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise TrainerError(f"{self.endpoint} does not answer as a hub does: {_said(error)}") from error
        except OSError as error:
            raise TrainerError(f"{error.filename or self.endpoint}: {error.strerror or _said(error)}") from error


def parse_name(text: str) -> tuple[str, str]:
    """`ORG/NAME` or `ORG/NAME@REVISION` -> name and revision. Raises InvalidInput."""
    name, at, revision = text.partition("@")
    if not NAME.fullmatch(name) or ".." in name or "--" in name:
        raise InvalidInput(f"{text!r}: expected ORG/NAME, as the hub calls it")
    if at and (not REVISION.fullmatch(revision) or ".." in revision):
        raise InvalidInput(f"{text!r}: {revision!r} is no branch, tag or commit")
    return name, revision or "main"


def _remote(sibling: Any) -> RemoteFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    path = PurePosixPath(sibling.rfilename)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"it lists {sibling.rfilename!r}")
    return RemoteFile(path, sibling.size, sha256, None if sibling.lfs else sibling.blob_id)


def model_of(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Those that make up the model, configurations first. Raises NotAModel where none has weights in safetensors."""
    by_path = {file.path: file for file in files}
    chosen = [by_path[path] for path in wanted(by_path) if path.suffix not in PICKLES]
    if not any(file.path.suffix == ".safetensors" for file in chosen):
        raise NotAModel("the repository has no weights in safetensors; pickles are never pulled")
    return sorted(chosen, key=lambda file: (file.path.suffix == ".safetensors", file.path))


def _refusal(error: HfHubHTTPError, name: str, revision: str | None, *, with_token: bool) -> TrainerError:
    """What a status of the hub means to whoever wanted something of it."""
    status = error.response.status_code
    token = "the token in HF_TOKEN has no access" if with_token else "no token was given: set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return InvalidInput(f"the hub has {name}, and no revision {revision!r} of it")
    if isinstance(error, GatedRepoError):
        return InvalidInput(f"{name} is gated: its terms are accepted on its page on the hub; {token}")
    if status == 404 or (isinstance(error, RepositoryNotFoundError) and with_token):
        return InvalidInput(f"the hub has no model {name}, or it is a private one; {token}")
    if status in {401, 403}:
        return InvalidInput(f"the hub refuses access to {name} ({status}); {token}")
    if status in {409, 412}:
        return TrainerError(f"somebody else changed {name} meanwhile ({status}); look, and push again")
    if status == 413:
        return InvalidInput(f"the hub takes no files of that size for {name} (413): {_said(error)}")
    return TrainerError(f"the hub answered {status} for {name}: {_said(error)}")


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


class _Sum:
    """Bytes of all files together."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, more: int) -> None:
        self._done += more
        self._progress(self._done, self._total)


class _Reading(io.BufferedReader):
    """A file that tells how far it has been read, once it `counts`: it is read for its digest before."""

    def __init__(self, path: Path, told: _Sum) -> None:
        super().__init__(io.FileIO(path))
        self._told, self._furthest, self._size = told, 0, path.stat().st_size
        self.counts = False

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(-1 if size is None else size)
        if self.counts:
            self._tell(self.tell())
        return content

    def finish(self) -> None:
        """What need not be sent is done as well."""
        self._tell(self._size)

    def _tell(self, position: int) -> None:
        if position > self._furthest:
            self._told.add(position - self._furthest)
            self._furthest = position


class _Growing(io.FileIO):
    """A file that is appended to, and tells how long it is."""

    def __init__(self, path: Path, progress: Callable[[int], None]) -> None:
        super().__init__(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")
        self._progress = progress
        self._progress(self.seek(0, io.SEEK_END))

    def write(self, content: bytes, /) -> int:  # type: ignore[override]  # of all buffers, only bytes come here
        rest = memoryview(content)
        while rest:
            rest = rest[super().write(rest) :]
        self._progress(self.tell())
        return len(content)
