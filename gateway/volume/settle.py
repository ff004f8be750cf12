"""When has a directory stopped changing? Changes settle, and absences settle too.

Of the rules for a whole directory, all but its structure are here: quiet for T by our own monotonic clock, no name of
a copy in progress, no live writer, no holes; or instead of all of them a SHA256SUMS that matches. T is graded by what
is known of the writer. What has settled stays settled until its fingerprint changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from gateway.model import ModelId, Reason
from gateway.settings import Settings
from gateway.volume.directory import Directory
from gateway.volume.files import shown_name
from gateway.volume.source import Ignored, Scan
from gateway.volume.sums import NAME as SUMS_NAME
from gateway.volume.sums import Checked
from gateway.volume.writers import Writer

NETWORK_SECONDS: Final = 2.0  # at least, where other machines write and attributes are cached
SUMS_SECONDS: Final = 0.05  # a copy that pauses for less than this is not hashed
HOLE_SECONDS: Final = 30.0  # sparse files have honest holes
HOLE_LOOK_SECONDS: Final = 1.0  # filling a mapped hole moves no time stamp
WRITER_SECONDS: Final = 600.0  # a leaked exec may hold a directory for ever
CLOCK_JUMP_SECONDS: Final = 1.0
NEVER: Final = float("inf")


class Evidence(Protocol):
    """Facts that cost something, asked only about directories that have not settled."""

    def begin(self) -> None:
        """A new look begins."""

    def hole(self, directory: Directory) -> str | None:
        """A file with bytes that were never written."""

    def writer(self, directory: Directory, changed: float) -> Writer | None:
        """Who may be writing to it; it last changed at `changed`, in wall-clock seconds."""

    def checked(self, directory: Directory) -> Checked | None:
        """What its SHA256SUMS says of it; None while that is found out, to be asked again at the next look."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """A directory, and whether it may be judged. `waiting` says why not; `since` is the monotonic time of its last
    change; `reason` refuses a settled directory whatever its structure is (the store checks SHA256SUMS as well)."""

    directory: Directory
    settled: bool
    waiting: str
    since: float
    reason: Reason | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The volume as it is believed to be. `removed` have gone for good; a model that is in neither is unknown. `due`
    is the monotonic time of the next look that can bring news by itself; None when only a change can. `ignored` are
    names that are no models."""

    observations: dict[ModelId, Observation]
    removed: frozenset[ModelId]
    due: float | None
    ignored: tuple[Ignored, ...] = ()


@dataclass(slots=True)
class _Track:
    """What is known of one directory between looks. `since` and `gone` are monotonic seconds, `changed` is wall."""

    directory: Directory
    since: float
    changed: float
    in_place: bool
    settled: bool = False
    writer_left: bool = False
    gone: float = 0.0
    asked: bool = False  # what SHA256SUMS says
    checked: Checked | None = None


@dataclass(slots=True)
class _Absence:
    """A directory that is not there: since when, in how many scans, and whether its removal was told."""

    since: float
    scans: int = 0
    told: bool = False


class Settler:
    """Turns scans into snapshots. No I/O but what the evidence does; not for several threads at once."""

    def __init__(self, settings: Settings, evidence: Evidence, *, network: bool = False) -> None:
        self._settings = settings
        self._evidence = evidence
        self._network = network
        self._tracks: dict[ModelId, _Track] = {}
        self._absent: dict[ModelId, _Absence] = {}
        self._replaced: set[ModelId] = set()  # was away since it settled: what is there now is a new directory
        self._clock: float | None = None
        self._first = True

    def observe(
        self, scan: Scan, *, now: float, wall: float, served: Mapping[ModelId, int | None] | None = None
    ) -> Snapshot:
        """The believed state after this scan.

        `now` is monotonic, `wall` is time.time(). `served` has every model that the caller lists, with the inode of
        the directory that its live generation came from: those that have gone are told until it lists them no more.
        """
        served = served or {}
        if self._clock is None:
            self._clock = wall - now
        self._evidence.begin()
        observations, dues = {}, []
        for model, directory in scan.directories.items():
            track = self._follow(directory, now, wall, served.get(model))
            waiting, due = ("", None) if track.settled else self._wait(track, now)
            observations[model] = _observation(track, waiting)
            dues.append(due)
        removed, due = self._absences(scan, set(served), now)
        self._first = False
        return Snapshot(
            observations=observations,
            removed=removed,
            due=min((due for due in [*dues, due] if due is not None), default=None),
            ignored=scan.ignored,
        )

    def forget(self, model: ModelId) -> None:
        """Starts over with a directory: it changed while it was being copied."""
        if track := self._tracks.get(model):
            track.settled = False
            track.directory = msgspec.structs.replace(track.directory, fingerprint="")

    def _follow(self, directory: Directory, now: float, wall: float, served: int | None) -> _Track:
        model = directory.model
        self._absent.pop(model, None)
        track = self._tracks.get(model)
        if track and track.directory.fingerprint == directory.fingerprint:
            track.directory = directory  # names of copies in progress are not in the fingerprint
            return track
        in_place = served == directory.inode and model not in self._replaced
        fresh = track is None or track.directory.inode != directory.inode
        since = now - self._age(directory, now, wall) if fresh else now
        changed = directory.newest_ctime_ns / 1e9
        if self._network and not (fresh and self._first):  # ctime is the server's clock: trust what we saw ourselves
            changed = max(changed, wall)
        followed = _Track(directory, since, changed, in_place)
        if track and not track.settled:  # the same round of copying
            followed.writer_left, followed.gone = track.writer_left, track.gone
        self._tracks[model] = followed
        return followed

    def _age(self, directory: Directory, now: float, wall: float) -> float:
        """For how long a directory seen for the first time has been as it is: 0 if its clock cannot be trusted.

        ctime cannot be set from user space. The directory's own mtime tells of files that were taken away.
        """
        if self._network or self._clock is None or abs(wall - now - self._clock) > CLOCK_JUMP_SECONDS:
            return 0.0
        return max(0.0, wall - max(directory.newest_ctime_ns, directory.mtime_ns) / 1e9)

    def _wait(self, track: _Track, now: float) -> tuple[str, float | None]:
        """Why the directory can not be believed yet, and when to look again; settles the track if it can."""
        directory, since, ready = track.directory, track.since, self._ready(track)
        if directory.in_progress:
            return f"partial name {shown_name(directory.in_progress)}", None
        early = NEVER  # when SHA256SUMS may spare us the wait
        if (now < ready or track.asked) and track.checked is None and directory.file(SUMS_NAME):
            early = since + SUMS_SECONDS
        if now >= early:
            track.asked, track.checked = True, self._evidence.checked(directory)
            if track.checked is not None and track.checked.verified:
                return self._settle(track)
            early = NEVER
        if now < since + WRITER_SECONDS and (writer := self._writer(track, now)):
            patience = max(self._settings.settle_writer_seconds, min(2.0, (now - since) / 10))
            return f"writer {writer}", min(early, now + patience)
        if now < (ready := self._ready(track)):
            return "changing", min(early, ready)
        if track.asked and track.checked is None:  # the one proof is worth the wait: the end of it brings a look
            return f"comparing {SUMS_NAME}", None
        if now < since + HOLE_SECONDS and (hole := self._evidence.hole(directory)):
            return f"hole in {shown_name(hole)}", min(since + HOLE_SECONDS, now + HOLE_LOOK_SECONDS)
        return self._settle(track)

    def _settle(self, track: _Track) -> tuple[str, float | None]:
        track.settled = True
        self._replaced.discard(track.directory.model)
        return "", None

    def _writer(self, track: _Track, now: float) -> Writer | None:
        """Asked at every look, not only before accepting: that a writer has left is known only if it was seen."""
        writer = self._evidence.writer(track.directory, track.changed)
        if writer is not None:
            track.writer_left = track.writer_left or writer.precise
            track.gone = now
        return writer

    def _ready(self, track: _Track) -> float:
        """When it has been quiet for long enough."""
        least = NETWORK_SECONDS if self._network else 0.0
        if track.writer_left:
            return max(track.since, track.gone) + max(least, self._settings.settle_writer_seconds)
        wanted = self._settings.settle_in_place_seconds if track.in_place else self._settings.settle_seconds
        return track.since + max(least, wanted)

    def _absences(self, scan: Scan, served: set[ModelId], now: float) -> tuple[frozenset[ModelId], float | None]:
        """Models that are away for the second time at least, and for as long as a new one would have to be quiet."""
        removed, dues = set(), []
        for model in (served | self._tracks.keys() | self._absent.keys()) - scan.directories.keys():
            if (model.namespace or model.name) in scan.unreadable:
                continue
            if self._tracks.pop(model, None):
                self._replaced.add(model)
            absence = self._absent.setdefault(model, _Absence(now))
            absence.scans += 1
            if absence.scans == 1 or now < absence.since + self._settings.settle_seconds:
                dues.append(absence.since + self._settings.settle_seconds)
            elif model in served or not absence.told:
                removed.add(model)
                absence.told = True
            if absence.told and model not in served:
                del self._absent[model]
                self._replaced.discard(model)
        return frozenset(removed), min(dues, default=None)


def _observation(track: _Track, waiting: str) -> Observation:
    refusal = track.directory.error or (track.checked.reason if track.checked else None)
    return Observation(
        directory=track.directory,
        settled=track.settled,
        waiting=waiting,
        since=track.since,
        reason=refusal if track.settled else None,
    )
