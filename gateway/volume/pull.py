"""One pull, from the look at the hub to the published directory. Blocking: it has a process to itself.

Only what is loaded is fetched, first the small files, so that a model that would be refused costs no weights. Every
file is checked against the digest that the hub lists, and the directory gets its name when it is whole.

    python -m gateway.volume.pull      reads one Order, writes Reports; this is how a gateway pulls
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.errors import GatewayError, HubFailed, Internal, NothingToServe, VolumeFull
from gateway.model import ModelId, Rejected
from gateway.volume.files import Folder
from gateway.volume.hub import Hub, RemoteFile, Repository
from gateway.volume.manifest import judge
from gateway.volume.modules import FILE as MODULES
from gateway.volume.modules import read_modules
from gateway.volume.order import Failed, Looked, Order, Progress, Pulled, Report
from gateway.volume.reasons import Unfit
from gateway.volume.selection import is_weights, select
from gateway.volume.staging import RECORD, Place, PulledFile, Record, writing
from gateway.volume.sums import NAME as SUMS

SPARE_BYTES: Final = 16 * 1024**2  # for folders, sums and the record
STEP: Final = 0.2  # seconds between two reports of progress
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

Tell = Callable[[Report], None]


def pull(order: Order, tell: Tell) -> Pulled:
    """Brings the model to the volume; the last report is the answer.

    Raises what stands below PullFailed in `gateway.errors`. What has come so far stays for the next try, unless the
    model could not be served anyway.
    """
    place = Place(order.models_dir, ModelId.of(order.model))
    hub = Hub(order.endpoint, order.token)
    with writing(order.models_dir):
        os.stat(order.models_dir)  # a volume that is not mounted is not made here
        place.check_free()
        repository = hub.look(order.model, order.revision)
        done = _already(place, repository) or _pull(order, place, hub, repository, tell)
    tell(done)
    return done


def _already(place: Place, repository: Repository) -> Pulled | None:
    record = place.record()
    if record is None or record.commit != repository.commit or not _is_whole(place.target, record):
        return None
    return _pulled(record, place, fresh=False)


def _pull(order: Order, place: Place, hub: Hub, repository: Repository, tell: Tell) -> Pulled:
    with place.staging(repository.commit) as stage:
        place.sweep()
        try:
            download = Download(hub, repository, stage, tell)
            wanted = _select(download, order)
            _make_room(stage, wanted)
            download.fetch(wanted, judged=lambda: _must_be_servable(stage, allow_pickle=order.allow_pickle))
        except NothingToServe as error:
            place.discard()
            raise NothingToServe(f"{order.model} cannot be served: {error.message}", **error.details) from error
        record = _finish(order, repository, stage, wanted)
        place.publish(stage)
        place.discard()
    return _pulled(record, place, fresh=True)


class Download:
    """Files of one commit into one folder, and how many bytes of them are there."""

    def __init__(self, hub: Hub, repository: Repository, stage: str, tell: Tell) -> None:
        self._hub = hub
        self.repository = repository
        self.stage = stage
        self._tell = tell
        self._done = 0
        self._told = 0.0

    def fetch(self, wanted: Sequence[RemoteFile], judged: Callable[[], None]) -> None:
        """All of them. `judged` is called before the first weights."""
        total = sum(file.size or 0 for file in wanted)
        self._tell(Looked(self.repository.commit, total, len(wanted)))
        weights = [file for file in wanted if is_weights(file.path)]
        for file in wanted:
            if weights and file is weights[0]:
                judged()
            self.one(file)
            self._done += _size(os.path.join(self.stage, file.path))
        self._tell(Progress(self._done))

    def one(self, file: RemoteFile) -> None:
        """One file, checked, on disk, and only then under its name. Raises HubFailed when it is not what the hub
        listed."""
        path = os.path.join(self.stage, file.path)
        if os.path.exists(path):
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        part = path + ".incomplete"
        if file.size is not None and _size(part) > file.size:
            os.unlink(part)
        self._hub.fetch(self.repository, file, part, self._progress)
        if not _is(part, file):
            os.unlink(part)
            raise HubFailed(f"{file.path} came other than the hub lists it; pull again", file=file.path)
        _sync(part)
        os.rename(part, path)

    def _progress(self, count: int) -> None:
        now = time.monotonic()
        if now - self._told >= STEP:
            self._told = now
            self._tell(Progress(self._done + count))


def _select(download: Download, order: Order) -> list[RemoteFile]:
    files = download.repository.files
    folders = {""}
    if modules := next((file for file in files if file.path == MODULES), None):
        download.one(modules)
        try:
            folders |= {module.path for module in read_modules(Folder(download.stage, download.stage))}
        except Unfit as error:
            raise NothingToServe(error.reason.message, reasons=[msgspec.to_builtins(error.reason)]) from error
    return select(files, folders, allow_pickle=order.allow_pickle)


def _make_room(stage: str, wanted: Sequence[RemoteFile]) -> None:
    """Raises VolumeFull before a byte is fetched in vain."""
    total = sum(file.size or 0 for file in wanted)
    there = sum(_size(os.path.join(stage, file.path)) or _size(_part(stage, file)) for file in wanted)
    needed, free = max(0, total - there) + SPARE_BYTES, shutil.disk_usage(stage).free
    if needed > free:
        raise VolumeFull(
            f"the pull needs {needed:,} bytes more; the volume has {free:,} free", needed=needed, free=free
        )


def _must_be_servable(stage: str, *, allow_pickle: bool) -> None:
    """What the gateway would refuse however many files come. Raises NothingToServe."""
    verdict = judge(stage, allow_pickle=allow_pickle)
    refused = (
        [reason for reason in verdict.reasons if reason.kind == "refused"] if isinstance(verdict, Rejected) else []
    )
    if refused:
        raise NothingToServe(refused[0].message, reasons=msgspec.to_builtins(refused))


def _finish(order: Order, repository: Repository, stage: str, wanted: Sequence[RemoteFile]) -> Record:
    """Only what is wanted, its SHA256SUMS, and where it comes from."""
    _tidy(stage, {file.path for file in wanted})
    files = tuple(
        PulledFile(file.path, _size(path := os.path.join(stage, file.path)), file.sha256 or _digest(path, "sha256"))
        for file in sorted(wanted, key=lambda file: file.path)
    )
    record = Record(order.model, order.revision, repository.commit, order.endpoint, time.time(), files)
    _write(os.path.join(stage, SUMS), "".join(f"{file.sha256}  {file.path}\n" for file in files).encode())
    _write(os.path.join(stage, RECORD), msgspec.json.format(msgspec.json.encode(record), indent=1))
    return record


def _tidy(stage: str, wanted: set[str]) -> None:
    """Without what an earlier try, under other settings, has fetched."""
    for folder, _, names in os.walk(stage):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.relpath(path, stage) not in wanted:
                os.unlink(path)


def _pulled(record: Record, place: Place, *, fresh: bool) -> Pulled:
    total = sum(file.size for file in record.files)
    return Pulled(record.model, place.target, record.commit, total, len(record.files), fresh)


def _is_whole(folder: str, record: Record) -> bool:
    return all(_size(os.path.join(folder, file.path)) == file.size for file in record.files)


def _is(path: str, file: RemoteFile) -> bool:
    if file.size is not None and _size(path) != file.size:
        return False
    if file.sha256:
        return _digest(path, "sha256") == file.sha256
    return not file.blob or _digest(path, "sha1", b"blob %d\0" % _size(path)) == file.blob


def _digest(path: str, kind: str, head: bytes = b"") -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.new(kind, head, usedforsecurity=False)).hexdigest()


def _part(stage: str, file: RemoteFile) -> str:
    return os.path.join(stage, file.path + ".incomplete")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(content)
    _sync(path)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main() -> int:
    """Exit status: 0 pulled, 1 failed; the last line says which and why."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the gateway ends its pulls itself
    if os.getppid() != order.parent:  # it died before it could be died with
        return 1

    def tell(report: Report) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.flush()

    try:
        pull(order, tell)
    except GatewayError as error:
        tell(Failed.of(error))
        return 1
    except Exception as error:
        tell(Failed.of(Internal("".join(traceback.format_exception(error)))))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
