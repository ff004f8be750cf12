"""What lies on the volume, as one whole: every look reads all of it, and leaving a model out means that it has gone.

No file is opened. A root that can not be read is "unknown" (VolumeUnreadable), never "everything was removed"; the
same holds for one namespace (`Scan.unreadable`). One unreadable directory does not hide the others.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gateway.model import HUB_CACHE, NAME, SUBMODULE, VERSION, ModelId
from gateway.volume import reasons
from gateway.volume.directory import IN_PROGRESS, Directory, inside, is_apart, read, refused, unreadable

ANCHORS: Final = frozenset({"config.json", "modules.json", "adapter_config.json"})
MODEL_FILES: Final = ANCHORS | {"tokenizer.json", "sentence_bert_config.json", "config_sentence_transformers.json"}
MODEL_SUFFIXES: Final = (".safetensors", ".bin", ".index.json")
EXPORTS: Final = frozenset({"onnx", "openvino"})  # other formats of the same model, with a config.json of their own
TRAINING: Final = frozenset({"training_progress.json", "final_model"})


class VolumeUnreadable(Exception):
    """The root is missing or can not be read, or is another one and empty. Nothing is known about any model."""

    def __init__(self, path: str, error: OSError) -> None:
        super().__init__(f"{path}: {error.strerror or error}")
        self.path = path
        self.errno = error.errno


class Ignored(msgspec.Struct, frozen=True):
    """A name that is no model, and why. `name` is its ASCII form, relative to the root."""

    name: str
    why: str


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole volume at one moment. `root` is its (st_dev, st_ino); models in the namespaces `unreadable` are
    unknown rather than gone."""

    directories: dict[ModelId, Directory]
    ignored: tuple[Ignored, ...]
    files: int
    root: tuple[int, int]
    unreadable: frozenset[str] = frozenset()


def scan(root: str) -> Scan:
    """One look at everything below `root`. Blocking; about 8 ms for a hundred models.

    Raises VolumeUnreadable.
    """
    real = os.path.realpath(root)
    try:
        own = os.stat(real)
        look = _Look(real)
        look.at(_entries(real))
    except OSError as error:
        raise VolumeUnreadable(root, error) from error
    return Scan(
        directories=look.directories,
        ignored=tuple(look.ignored),
        files=sum(len(directory.files) for directory in look.directories.values()),
        root=(own.st_dev, own.st_ino),
        unreadable=frozenset(look.unreadable),
    )


def find(root: str, model: ModelId) -> Directory | None:
    """One model as `scan` would have it, at the cost of one; of numbered versions the highest. None also where the
    root or the namespace can not be read."""
    real = os.path.realpath(root)
    cached = HUB_CACHE + "--".join(part for part in (model.namespace, model.name) if part)
    look = _Look(real, only=model.name)
    look.at([entry for entry in _entries_or_none(real) if entry.name in (model.namespace or model.name, cached)])
    versions = [found for found in look.directories if found.family == model and found != model]
    return look.directories.get(max(versions, key=lambda found: found.version or 0, default=model))


@dataclass(slots=True)
class _Look:
    """One pass over the root. `only`: of the models in a namespace, the one of this name."""

    root: str
    only: str | None = None
    directories: dict[ModelId, Directory] = field(default_factory=dict)
    ignored: list[Ignored] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)

    def at(self, entries: list[os.DirEntry[str]]) -> None:
        """What lies directly under the root."""
        for entry in entries:
            if not entry.name.startswith(HUB_CACHE):
                self.top(entry)
        for entry in entries:
            if entry.name.startswith(HUB_CACHE):  # after the others: what was dropped wins over what was downloaded
                self.hub(entry)

    def top(self, entry: os.DirEntry[str]) -> None:
        """A directory under the root: a namespace, a legacy model, or both when somebody's copy went astray."""
        if is_apart(entry.name) or not (path := self._resolve(entry, ModelId(None, entry.name))):
            return
        try:
            children = _entries(path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                self.unreadable.add(entry.name)
                self._ignore(entry.name, unreadable(error, path).message)
            return
        if _is_model(children):
            models = [child for child in children if _leads_to_dir(child) and _stands_alone(child, entry.name)]
            self._add(ModelId(None, entry.name), path, frozenset(child.name for child in models))
            children = models
        for child in children:
            if self.only is None or child.name == self.only:
                self.model(entry.name, child)

    def model(self, namespace: str, entry: os.DirEntry[str]) -> None:
        """A directory in a namespace: a model, numbered versions of one, or both."""
        model = ModelId(namespace, entry.name)
        if is_apart(entry.name) or not (path := self._resolve(entry, model)):
            return
        children = _entries_or_none(path)
        versions = _versions(children, entry.name)
        for child in versions:
            version = ModelId(namespace, entry.name, int(child.name))
            if place := self._resolve(child, version):
                self._add(version, place)
        if not versions or _is_model(children):
            self._add(model, path, frozenset(child.name for child in versions))

    def _resolve(self, entry: os.DirEntry[str], model: ModelId) -> str | None:
        """The real path of a directory that may be a model or a namespace; None after saying why not."""
        if not entry.is_symlink():
            return entry.path if entry.is_dir(follow_symlinks=False) and self._named(model) else None
        real = os.path.realpath(entry.path)
        if not os.path.isdir(real):
            if not os.path.exists(real):
                self._ignore(model.path, "a link that leads nowhere")
            return None
        if not self._named(model):
            return None
        if not inside(real, self.root):
            reason = reasons.reason(
                "outside_volume", f"{model.path} is a link that leads out of the volume", model.name
            )
            with suppress(OSError):  # removed while we look
                self.directories[model] = refused(model, entry.path, entry.stat(follow_symlinks=False), reason)
            return None
        return real

    def _named(self, model: ModelId) -> bool:
        if SUBMODULE.fullmatch(model.name):
            self._ignore(model.path, "this is a part of a model; copy the whole directory that holds it")
        elif not NAME.fullmatch(model.name):
            self._ignore(model.path, "a name begins with a letter or digit and has only those, '.', '_' and '-'")
        else:
            return True
        return False

    def _add(
        self, model: ModelId, path: str, apart: frozenset[str] = frozenset(), in_progress: str | None = None
    ) -> None:
        if model in self.directories:
            self._ignore(os.path.relpath(path, self.root), f"another directory is {model.path} already")
            return
        directory = read(model, path, self.root, apart, in_progress)
        if directory and directory.file("training_progress.json"):
            directory = self._trained(directory) or directory
        if directory:
            self.directories[model] = self._with_nested(directory)

    def _with_nested(self, outer: Directory) -> Directory:
        """`m/m` beside what else is in `m`. The outer one's files and fingerprint cover it already."""
        name = os.path.basename(outer.path)
        path = os.path.join(outer.path, name)
        if not any(_is_nested(file.path, name) for file in outer.files) or os.path.islink(path):
            return outer
        return msgspec.structs.replace(outer, nested=read(outer.model, path, self.root))

    def _trained(self, run: Directory) -> Directory | None:
        """What a training run left: its `final_model/`."""
        path = os.path.join(run.path, "final_model")
        return read(run.model, path, self.root) if os.path.isdir(path) and not os.path.islink(path) else None

    def hub(self, entry: os.DirEntry[str]) -> None:
        """A directory of the Hugging Face cache, read from the snapshot that refs/main names, or the only one."""
        parts = entry.name.removeprefix(HUB_CACHE).split("--")
        if len(parts) > 2 or not all(NAME.fullmatch(part) for part in parts):
            self._ignore(entry.name, "not a name of the Hugging Face cache: models--<org>--<name>")
            return
        model = ModelId(parts[0] if len(parts) == 2 else None, parts[-1])
        if path := self._resolve(entry, model):
            self._add(model, _snapshot(path) or path, in_progress=_downloading(path))

    def _ignore(self, path: str, why: str) -> None:
        self.ignored.append(Ignored(ascii(path)[1:-1], why))


def _entries(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as found:
        return sorted(found, key=lambda entry: entry.name)


def _entries_or_none(path: str) -> list[os.DirEntry[str]]:
    """Nothing where the operating system says no: reading the directory itself tells that."""
    try:
        return _entries(path)
    except OSError:
        return []


def _leads_to_dir(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one. Not one that leads to itself, through a file or where we may not go."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _versions(entries: list[os.DirEntry[str]], parent: str) -> list[os.DirEntry[str]]:
    """Directories with a number for a name. Beside a model's own files they count if they hold models themselves."""
    numbered = [entry for entry in entries if VERSION.fullmatch(entry.name) and _leads_to_dir(entry)]
    return [entry for entry in numbered if _stands_alone(entry, parent)] if _is_model(entries) else numbered


def _is_nested(file: str, name: str) -> bool:
    """Whether a file of the model `name` belongs to a model of the same name inside it."""
    folder, _, rest = file.partition("/")
    return folder == name and (rest in MODEL_FILES or rest.endswith(MODEL_SUFFIXES)) and "/" not in rest


def _is_model(entries: list[os.DirEntry[str]]) -> bool:
    return (
        any(
            (entry.name in MODEL_FILES or entry.name.endswith(MODEL_SUFFIXES))
            and not entry.name.startswith(".")
            and not entry.is_dir(follow_symlinks=False)
            for entry in entries
        )
        or {entry.name for entry in entries} >= TRAINING
    )


def _stands_alone(child: os.DirEntry[str], parent: str) -> bool:
    """Whether a directory beside a legacy model's files is a model of its own. Without this, model files that
    were copied to the namespace itself by mistake would take all its models away."""
    if is_apart(child.name) or SUBMODULE.fullmatch(child.name) or child.name in EXPORTS | TRAINING | {parent}:
        return False
    return any(os.path.lexists(os.path.join(child.path, anchor)) for anchor in ANCHORS)


def _snapshot(path: str) -> str | None:
    snapshots = os.path.join(path, "snapshots")
    try:
        with open(os.path.join(path, "refs", "main"), "rb", opener=_ref) as ref:
            named = os.path.join(snapshots, ref.read(64).decode("ascii").strip())
    except (OSError, ValueError):
        named = ""
    try:
        found = [entry.path for entry in _entries(snapshots) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return None
    if named in found:
        return named
    return found[0] if len(found) == 1 and not named else None


def _downloading(path: str) -> str | None:
    """A blob of the Hub cache that is still being fetched; the snapshot shows only those that are complete."""
    try:
        names = os.listdir(os.path.join(path, "blobs"))
    except OSError:
        return None
    return next((name for name in names if IN_PROGRESS.fullmatch(name)), None)


def _ref(path: str, flags: int) -> int:
    """Opens a regular file only: a FIFO of that name would hold the whole scan."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd
