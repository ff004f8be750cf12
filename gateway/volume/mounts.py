"""Which file system a path lies on, as `/proc/self/mountinfo` tells it (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from typing import Final

NETWORK: Final = re.compile(r"(nfs|fuse|smb|cifs|9p|virtiofs|ceph|lustre|glusterfs|afs|beegfs|gpfs)")
MOUNTINFO: Final = "/proc/self/mountinfo"


def is_network(path: str, mountinfo: str = MOUNTINFO) -> bool:
    """Whether other machines may write below `path` unseen by this kernel. FUSE counts: it may be anything.

    False where there is no mountinfo to ask.
    """
    return bool(NETWORK.match(kind(path, mountinfo)))


def kind(path: str, mountinfo: str = MOUNTINFO) -> str:
    """The type of the file system that holds `path` ("ext4", "nfs4", ...), "" if that is not known."""
    real = os.path.realpath(path)
    best, found = -1, ""
    for point, fstype in _mounts(mountinfo):
        below = real == point or real.startswith(point.rstrip("/") + "/")
        if below and len(point) >= best:  # of two mounts on one point the later one hides the other
            best, found = len(point), fstype
    return found


def _mounts(mountinfo: str) -> list[tuple[str, str]]:
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
            pairs = [line.partition(" - ") for line in lines]
    except OSError:
        return []
    return [(_unescape(left.split(" ")[4]), right.split(" ")[0]) for left, _, right in pairs if right]


def _unescape(point: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)
