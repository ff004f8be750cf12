"""`m/m`: what a second identical `kubectl cp ./m pod:.../m` makes. The newer of the two is what its owner means by `m`.

A nested directory that is not whole never stands in the way of the one around it, and is never served.
"""

from __future__ import annotations

import os

import msgspec

from gateway.model import Manifest, Reason
from gateway.volume import reasons
from gateway.volume.directory import Directory, read


def around(directory: Directory, root: str) -> Directory | None:
    """The directory without the nested one, as it is now; None when it has gone. `root` may be a link."""
    apart = directory.apart | {os.path.basename(directory.path)}
    return read(directory.model, directory.path, os.path.realpath(root), apart)


def choose(
    outer: Directory, outer_manifest: Manifest | None, inner: Directory, inner_manifest: Manifest | None
) -> Directory:
    """Which of the two is served, with a warning. A manifest is None where a directory is not fit to be served."""
    if outer_manifest is None and inner_manifest is None:
        chosen, why = (outer if outer.files else inner), "neither of the two is whole"
    elif inner_manifest is None:
        chosen, why = outer, "the inner one is not whole, and the outer one is used"
    elif outer_manifest is None:
        chosen, why = inner, "the outer one is not whole, and the inner one is used"
    elif _newest(inner, inner_manifest) >= _newest(outer, outer_manifest):
        chosen, why = inner, "the inner one is newer and is used"
    else:
        chosen, why = outer, "the outer one is newer and is used"
    return msgspec.structs.replace(chosen, warning=_warning(outer, why))


def _newest(directory: Directory, manifest: Manifest) -> int:
    """When the newest of the files that are loaded changed: an edited README makes no model newer."""
    loaded = set(manifest.files)
    return max((file.ctime_ns for file in directory.files if file.path in loaded), default=0)


def _warning(outer: Directory, why: str) -> Reason:
    above, name = os.path.split(outer.path)
    message = f"{name}/ holds another {name}/, as a second copy to the same place makes it: {why}; copy to {above}/"
    return reasons.reason("nested_copy", message, name)
