"""The look at the whole volume: what is a model, what is not, and what is not known."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.model import ModelId, ModelRef
from gateway.volume import directory, source
from gateway.volume.directory import Directory
from gateway.volume.mounts import is_network, kind
from gateway.volume.source import Scan, scan

FILES = ("1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "tokenizer.json")


def drop(path: Path, *names: str, content: str = "x") -> Path:
    for name in names or FILES:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


def ids(found: Scan) -> set[str]:
    return {model.path for model in found.directories}


def one(root: Path, model: str = "finetuned/m") -> Directory:
    return scan(str(root)).directories[ModelId.of(model)]


def names(found: Directory) -> list[str]:
    return [file.path for file in found.files]


@pytest.fixture
def open_root() -> Iterator[Path]:
    """A root that another user may walk to: pytest's own folders are closed to all but us."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o755)
    shutil.rmtree(path)


@contextmanager
def somebody_else() -> Iterator[None]:
    """Permissions mean nothing to root: run as nobody where we are root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_models_stand_in_namespaces_and_directly_under_the_root(tmp_path: Path) -> None:
    drop(tmp_path / "finetuned/m")
    drop(tmp_path / "base/n", "config.json")
    drop(tmp_path / "legacy", "config.json", "0_Transformer/config.json")
    (tmp_path / "empty").mkdir()
    (tmp_path / "stray.txt").write_text("x")
    found = scan(str(tmp_path))
    assert ids(found) == {"finetuned/m", "base/n", "legacy"}
    assert names(one(tmp_path)) == list(FILES)
    assert names(one(tmp_path, "legacy")) == ["0_Transformer/config.json", "config.json"]
    assert found.files == 8
    own = tmp_path.stat()
    assert found.root == (own.st_dev, own.st_ino)
    assert not found.ignored


def test_names_that_are_no_models_are_left_out_and_odd_ones_are_listed(tmp_path: Path) -> None:
    for name in (".m.staging", "checkpoints", "checkpoint-500", "eval", "logs", "lost+found"):
        drop(tmp_path / "finetuned" / name)
    drop(tmp_path / "finetuned/1_Pooling", "config.json")
    drop(tmp_path / "finetuned/-rf")
    os.makedirs(os.fsencode(tmp_path) + b"/finetuned/caf\xe9\n")
    drop(tmp_path / ".hidden/m")
    found = scan(str(tmp_path))
    assert ids(found) == set()
    assert [ignored.name for ignored in found.ignored] == [
        "finetuned/-rf",
        "finetuned/1_Pooling",
        found.ignored[2].name,
    ]
    assert found.ignored[2].name == r"finetuned/caf\udce9\n"
    assert found.ignored[2].name.isascii()


def test_a_file_name_that_is_not_utf8_is_part_of_the_fingerprint_and_crashes_nothing(tmp_path: Path) -> None:
    drop(tmp_path / "finetuned/m")
    before = one(tmp_path)
    with open(os.fsencode(tmp_path) + b"/finetuned/m/\xff\xfe", "wb") as stream:
        stream.write(b"x")
    after = one(tmp_path)
    assert after.fingerprint != before.fingerprint
    assert len(after.files) == len(before.files) + 1


def test_hidden_files_and_checkpoints_are_no_part_of_a_model(tmp_path: Path) -> None:
    drop(tmp_path / "finetuned/m")
    before = one(tmp_path)
    drop(
        tmp_path / "finetuned/m", ".gitattributes", "checkpoint-10/model.safetensors", ".git/config", "eval/scores.csv"
    )
    assert one(tmp_path).fingerprint == before.fingerprint


@pytest.mark.parametrize(
    "name",
    [
        ".model.safetensors.a1B2c3",
        ".~tmp~/model.safetensors",
        ".tmpAbCdEf",
        "model.safetensors.partial",
        "1_Pooling/config.json.part",
        "x.tmp",
        ".cache/huggingface/download/abc.incomplete",
        "x.crdownload",
        "x.aria2",
        "x.filepart",
    ],
)
def test_the_name_of_a_copy_in_progress_is_seen_anywhere_in_the_directory(tmp_path: Path, name: str) -> None:
    drop(tmp_path / "finetuned/m")
    assert one(tmp_path).in_progress is None
    drop(tmp_path / "finetuned/m", name)
    seen = one(tmp_path).in_progress
    assert seen is not None
    assert name.startswith(seen.rstrip("/"))


def test_everything_that_could_matter_changes_the_fingerprint(tmp_path: Path) -> None:
    model = drop(tmp_path / "finetuned/m")
    seen = [one(tmp_path).fingerprint]

    def changed() -> bool:
        seen.append(one(tmp_path).fingerprint)
        return seen[-1] not in seen[:-1]

    assert not changed()  # a look is not a change
    os.utime(model / "config.json", ns=(1, 1))
    assert changed()
    (model / "config.json").chmod(0o600)
    assert changed()
    (model / "1_Pooling").chmod(0o700)
    assert changed()
    (model / "modules.json").rename(model / "renamed.json")
    assert changed()
    shutil.copy(model / "tokenizer.json", model / "new")
    os.replace(model / "new", model / "tokenizer.json")
    assert changed()
    model.rename(tmp_path / "old")
    shutil.copytree(tmp_path / "old", model)
    assert changed()


def test_moving_a_directory_into_place_does_not_make_it_younger(tmp_path: Path) -> None:
    drop(tmp_path / "finetuned/.staging")
    newest = max(path.lstat().st_ctime_ns for path in (tmp_path / "finetuned/.staging").rglob("*"))
    (tmp_path / "finetuned/.staging").rename(tmp_path / "finetuned/m")
    assert one(tmp_path).newest_ctime_ns == newest
    assert one(tmp_path).mtime_ns <= (tmp_path / "finetuned/m").stat().st_ctime_ns


def test_the_target_of_a_link_inside_the_volume_counts_and_one_outside_does_not(tmp_path: Path) -> None:
    root = tmp_path / "root"
    model = drop(root / "finetuned/m", "config.json")
    drop(root / "finetuned/.data", "weights", content="12345")
    (tmp_path / "secret").write_text("1")
    (model / "model.safetensors").symlink_to("../.data/weights")
    (model / "vocab.txt").symlink_to(tmp_path / "secret")
    before = one(root)
    weights, vocab = before.file("model.safetensors"), before.file("vocab.txt")
    assert weights is not None
    assert weights.is_link
    assert weights.size == 5
    assert vocab is not None
    assert not vocab.is_regular
    (tmp_path / "secret").write_text("22")
    assert one(root).fingerprint == before.fingerprint
    (root / "finetuned/.data/weights").write_text("123456")
    assert one(root).fingerprint != before.fingerprint


def test_links_that_lead_round_in_circles_are_not_followed(tmp_path: Path) -> None:
    model = drop(tmp_path / "finetuned/m")
    (model / "loop").symlink_to(".")
    (model / "loop2").symlink_to("..")
    (tmp_path / "finetuned/self").symlink_to("self")
    found = scan(str(tmp_path))
    assert ids(found) == {"finetuned/m"}
    assert set(names(one(tmp_path))) == {*FILES, "loop", "loop2"}
    assert [ignored.name for ignored in found.ignored] == ["finetuned/self"]


def test_a_fifo_is_seen_and_never_opened(tmp_path: Path) -> None:
    model = drop(tmp_path / "finetuned/m", "model.safetensors")
    os.mkfifo(model / "config.json")
    (tmp_path / "models--org--x/refs").mkdir(parents=True)
    os.mkfifo(tmp_path / "models--org--x/refs/main")
    found = one(tmp_path).file("config.json")
    assert found is not None
    assert not found.is_regular


@pytest.mark.parametrize("target", ["1", "config.json/x", "a" * 300, "nowhere"])
def test_a_link_that_cannot_be_followed_is_no_folder_and_hides_nothing(tmp_path: Path, target: str) -> None:
    """To itself, through a file, by a name that is too long: each is another error of the operating system."""
    drop(tmp_path / "finetuned/m", "config.json").joinpath("1").symlink_to(target)
    drop(tmp_path / "finetuned/odd", "notes.txt").joinpath("1").symlink_to(target)
    drop(tmp_path / "legacy", "config.json").joinpath("1").symlink_to(target)
    drop(tmp_path / "base/n")
    assert ids(scan(str(tmp_path))) == {"finetuned/m", "finetuned/odd", "legacy", "base/n"}
    found = source.find(str(tmp_path), ModelId.of("finetuned/m"))
    assert found is not None
    assert found.path == str(tmp_path / "finetuned/m")


def test_a_link_to_where_we_may_not_go_is_no_folder_and_hides_nothing(open_root: Path) -> None:
    drop(open_root / "closed/x")
    drop(open_root / "root/legacy", "config.json").joinpath("backup").symlink_to(open_root / "closed/x")
    drop(open_root / "root/finetuned/m").joinpath("1").symlink_to(open_root / "closed/x")
    (open_root / "closed").chmod(0o700 if os.geteuid() == 0 else 0)
    with somebody_else():
        assert ids(scan(str(open_root / "root"))) == {"finetuned/m", "legacy"}


def test_a_link_out_of_the_volume_that_is_removed_while_we_look_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(tmp_path / "elsewhere")
    drop(tmp_path / "root/finetuned/m")
    link = tmp_path / "root/finetuned/out"
    link.symlink_to(tmp_path / "elsewhere")
    inside = source.inside

    def removing(path: str, root: str) -> bool:
        if path == str(tmp_path / "elsewhere"):
            link.unlink()
        return inside(path, root)

    monkeypatch.setattr(source, "inside", removing)
    assert ids(scan(str(tmp_path / "root"))) == {"finetuned/m"}


def test_whatever_else_the_operating_system_says_during_a_look_leaves_the_volume_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(tmp_path / "finetuned/m")

    def failing(*_: object) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(source, "_is_model", failing)
    with pytest.raises(source.VolumeUnreadable, match="Input/output error"):
        scan(str(tmp_path))


def test_a_model_may_be_a_link_inside_the_volume_and_never_one_out_of_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    drop(root / "finetuned/..2026_1/m", "config.json")
    (root / "finetuned/..data").symlink_to("..2026_1")
    (root / "finetuned/m").symlink_to("..data/m")
    drop(tmp_path / "elsewhere", "config.json")
    (root / "finetuned/out").symlink_to(tmp_path / "elsewhere")
    inside, outside = one(root), one(root, "finetuned/out")
    assert inside.path == str(root / "finetuned/..2026_1/m")
    assert names(inside) == ["config.json"]
    assert outside.error is not None
    assert outside.error.code == "outside_volume"
    assert not outside.files


def configmap(model: Path, version: str, content: str) -> Path:
    """The layout that Kubernetes gives a ConfigMap, and its exchange of all files at once."""
    drop(model / version, content=content)
    (model / "..data_tmp").symlink_to(version)
    (model / "..data_tmp").rename(model / "..data")
    for name in ("1_Pooling", "config.json", "model.safetensors", "modules.json", "tokenizer.json"):
        if not (model / name).is_symlink():
            (model / name).symlink_to(f"..data/{name}")
    return model


def test_the_links_of_a_configmap_are_followed_and_its_exchange_is_a_change_of_content(tmp_path: Path) -> None:
    model = configmap(tmp_path / "finetuned/m", "..2026_01", "one")
    before = one(tmp_path)
    assert names(before) == list(FILES)
    assert {file.size for file in before.files} == {3}
    configmap(model, "..2026_02", "three")
    after = one(tmp_path)
    assert {file.size for file in after.files} == {5}
    assert after.fingerprint != before.fingerprint
    assert after.inode == before.inode
    shutil.rmtree(model / "..2026_01")
    assert one(tmp_path).fingerprint == after.fingerprint


def test_a_change_behind_a_configmaps_link_to_a_folder_is_seen(tmp_path: Path) -> None:
    model = configmap(tmp_path / "finetuned/m", "..2026_01", "one")
    before = one(tmp_path)
    (model / "..2026_01/1_Pooling/config.json").write_text("changed")
    assert one(tmp_path).fingerprint != before.fingerprint


@pytest.mark.parametrize("target", ["..", "/etc", "../../elsewhere", "..data", "..2026_01", "1_Pooling"])
def test_a_link_to_a_folder_is_followed_for_a_configmap_alone(tmp_path: Path, target: str) -> None:
    root = tmp_path / "root"
    model = configmap(root / "finetuned/m", "..2026_01", "one")
    drop(tmp_path / "elsewhere/1_Pooling", "secret")
    (model / "..data").unlink()
    if target == "1_Pooling":  # another folder than the one of the link's name
        (model / "..data").symlink_to("..2026_01")
        (model / "1_Pooling").unlink()
        (model / "1_Pooling").symlink_to("..data/../..2026_01/1_Pooling")
    elif target == "..2026_01":  # a version that is itself a link
        (model / "..2026_01").rename(model / "..real")
        (model / "..2026_01").symlink_to("..real")
        (model / "..data").symlink_to("..2026_01")
    else:
        (model / "..data").symlink_to(target)
    assert "1_Pooling/config.json" not in names(one(root))
    assert "1_Pooling/secret" not in names(one(root))


def test_each_numbered_directory_is_a_version(tmp_path: Path) -> None:
    for version in ("1", "2", "10"):
        drop(tmp_path / "finetuned/m" / version)
    drop(tmp_path / "finetuned/m", "notes.txt")
    drop(tmp_path / "finetuned/m/latest")
    found = scan(str(tmp_path))
    assert ids(found) == {"finetuned/m/1", "finetuned/m/2", "finetuned/m/10"}
    assert {model.family.path for model in found.directories} == {"finetuned/m"}
    assert one(tmp_path, "finetuned/m/10").path == str(tmp_path / "finetuned/m/10")
    assert names(one(tmp_path, "finetuned/m/2")) == list(FILES)


def test_versions_beside_a_models_own_files_are_models_apart(tmp_path: Path) -> None:
    drop(tmp_path / "finetuned/m")
    drop(tmp_path / "finetuned/m/2")
    drop(tmp_path / "finetuned/m/7", "vocab.txt")  # a folder of the model itself, whatever its name
    found = scan(str(tmp_path))
    assert ids(found) == {"finetuned/m", "finetuned/m/2"}
    assert names(one(tmp_path)) == ["1_Pooling/config.json", "7/vocab.txt", *FILES[1:]]
    again = directory.look(one(tmp_path), str(tmp_path))
    assert again is not None
    assert again.fingerprint == one(tmp_path).fingerprint


@pytest.mark.parametrize("name", ["03", "-1", "1.5", "v2", "1" * 19, "1_Pooling", ".4"])
def test_only_whole_numbers_are_versions(tmp_path: Path, name: str) -> None:
    drop(tmp_path / "finetuned/m" / name)
    assert ids(scan(str(tmp_path))) == {"finetuned/m"}


def test_a_version_may_be_a_link_on_the_volume_and_never_one_out_of_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    drop(root / "base/n")
    drop(tmp_path / "elsewhere")
    (root / "finetuned/m").mkdir(parents=True)
    (root / "finetuned/m/1").symlink_to("../../base/n")
    (root / "finetuned/m/2").symlink_to(tmp_path / "elsewhere")
    assert one(root, "finetuned/m/1").path == str(root / "base/n")
    error = one(root, "finetuned/m/2").error
    assert error is not None
    assert error.code == "outside_volume"


def test_a_version_of_a_training_run_is_its_final_model(tmp_path: Path) -> None:
    drop(tmp_path / "finetuned/m/4", "training_progress.json", "final_model/config.json")
    assert one(tmp_path, "finetuned/m/4").path == str(tmp_path / "finetuned/m/4/final_model")


def test_one_model_is_found_as_the_whole_look_finds_it(tmp_path: Path) -> None:
    for place in ("finetuned/m", "finetuned/m/2", "base/v/1", "base/v/12", "models--org--name/snapshots/1", "legacy"):
        drop(tmp_path / place)
    drop(tmp_path / "models--plain/snapshots/1", "config.json")
    whole = scan(str(tmp_path)).directories
    for model in whole:
        if model != ModelId("finetuned", "m"):
            assert source.find(str(tmp_path), model) == whole[model]
    assert source.find(str(tmp_path), ModelId("base", "v")) == whole[ModelId("base", "v", 12)]
    assert source.find(str(tmp_path), ModelId("finetuned", "m")) == whole[ModelId("finetuned", "m", 2)]
    assert source.find(str(tmp_path), ModelId("finetuned", "none")) is None
    assert source.find(str(tmp_path / "nowhere"), ModelId("finetuned", "m")) is None


def test_the_fingerprint_outlives_another_number_of_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(tmp_path / "finetuned/m")
    before = one(tmp_path)
    plain = os.stat

    def remounted(path: str, **options: bool) -> os.stat_result:
        found = plain(path, **options)
        return os.stat_result((*found[:2], found.st_dev + 1, *found[3:]), {"st_mtime_ns": found.st_mtime_ns})

    monkeypatch.setattr(directory.os, "stat", remounted)
    after = one(tmp_path)
    assert after.device == before.device + 1
    assert after.fingerprint == before.fingerprint


def test_the_hub_cache_is_read_from_the_snapshot_that_main_names(tmp_path: Path) -> None:
    cache = tmp_path / "models--org--name"
    drop(cache, "blobs/aa", content="weights")
    drop(cache, "refs/main", content="1111")
    for sha in ("0000", "1111"):
        (cache / "snapshots" / sha).mkdir(parents=True)
        (cache / "snapshots" / sha / "model.safetensors").symlink_to("../../blobs/aa")
    drop(tmp_path / "models--plain", "snapshots/2222/config.json")
    found = one(tmp_path, "org/name")
    assert found.path == str(cache / "snapshots/1111")
    assert [file.size for file in found.files] == [7]
    assert one(tmp_path, "plain").path == str(tmp_path / "models--plain/snapshots/2222")
    assert found.in_progress is None
    drop(cache, "blobs/bb.incomplete")
    assert one(tmp_path, "org/name").in_progress == "bb.incomplete"


@pytest.mark.parametrize(
    ("place", "spelling"),
    [
        ("thellert_physbert_cased", "huggingface:thellert/physbert_cased"),
        ("models--thellert--physbert_cased/snapshots/1", "huggingface:thellert/physbert_cased"),
        ("ouragboros_finetuned", "huggingface:ouragboros_finetuned"),
        ("finetuned/physics", "physics"),
        ("finetuned/physics/3", "physics/3"),
    ],
)
def test_every_layout_is_found_by_the_spelling_that_clients_send(tmp_path: Path, place: str, spelling: str) -> None:
    drop(tmp_path / place)
    assert set(ModelRef.parse(spelling, str(tmp_path)).candidates) & scan(str(tmp_path)).directories.keys()


def test_what_was_dropped_wins_over_what_was_downloaded(tmp_path: Path) -> None:
    drop(tmp_path / "models--org--name", "snapshots/1/config.json")
    dropped = drop(tmp_path / "org/name", "config.json")
    assert one(tmp_path, "org/name").path == str(dropped)
    assert [ignored.name for ignored in scan(str(tmp_path)).ignored] == ["models--org--name/snapshots/1"]


def test_the_model_of_a_training_run_is_its_final_model(tmp_path: Path) -> None:
    run = drop(tmp_path / "finetuned/m", "training_progress.json", "checkpoint-5/model.safetensors")
    assert names(one(tmp_path)) == ["training_progress.json"]
    drop(run / "final_model", "config.json")
    found = one(tmp_path)
    assert found.path == str(run / "final_model")
    assert found.inode == (run / "final_model").stat().st_ino
    drop(tmp_path / "old_run", "training_progress.json", "final_model/config.json")
    assert one(tmp_path, "old_run").path == str(tmp_path / "old_run/final_model")


def test_model_files_copied_to_the_namespace_by_mistake_do_not_hide_its_models(tmp_path: Path) -> None:
    drop(tmp_path / "finetuned/m")
    drop(tmp_path / "finetuned/onnx", "config.json")
    drop(tmp_path / "finetuned")
    assert ids(scan(str(tmp_path))) == {"finetuned", "finetuned/m"}
    stray = one(tmp_path, "finetuned")
    assert set(names(stray)) == {*FILES, "onnx/config.json"}
    again = directory.look(stray, str(tmp_path))
    assert again is not None
    assert again.fingerprint == stray.fingerprint


def test_one_unreadable_directory_does_not_hide_the_others_and_says_what_heals_it(open_root: Path) -> None:
    drop(open_root / "finetuned/good")
    bad = drop(open_root / "finetuned/m")
    bad.chmod(0o000)
    with somebody_else():
        found = scan(str(open_root))
    error = found.directories[ModelId("finetuned", "m")].error
    assert found.directories[ModelId("finetuned", "good")].error is None
    assert error is not None
    assert (error.code, error.kind) == ("folder_unreadable", "unreadable")
    assert f"uid {bad.stat().st_uid}" in error.message
    assert "chmod" in error.remedy
    bad.chmod(0o755)
    with somebody_else():
        healed = scan(str(open_root)).directories[ModelId("finetuned", "m")]
    assert healed.error is None
    assert healed.fingerprint != found.directories[ModelId("finetuned", "m")].fingerprint


def test_the_models_of_an_unreadable_namespace_are_unknown(open_root: Path) -> None:
    drop(open_root / "finetuned/m")
    (open_root / "finetuned").chmod(0o000)
    with somebody_else():
        found = scan(str(open_root))
    assert not found.directories
    assert found.unreadable == {"finetuned"}


def test_a_root_that_is_missing_is_unknown_and_not_empty(tmp_path: Path) -> None:
    with pytest.raises(source.VolumeUnreadable, match="nowhere"):
        scan(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(source.VolumeUnreadable):
        scan(str(tmp_path / "file"))
    (tmp_path / "link").symlink_to(drop(tmp_path / "root/finetuned/m").parents[1])
    assert ids(scan(str(tmp_path / "link"))) == {"finetuned/m"}


def test_directories_too_deep_or_too_full_are_refused_and_not_read_to_the_end(tmp_path: Path) -> None:
    drop(tmp_path / "finetuned/deep", "/".join("abcdefghij") + "/x")
    drop(tmp_path / "finetuned/full", *(f"{n}.txt" for n in range(directory.MAX_ENTRIES + 1)))
    deep, full = one(tmp_path, "finetuned/deep").error, one(tmp_path, "finetuned/full").error
    assert deep is not None
    assert deep.code == "too_deep"
    assert full is not None
    assert full.code == "too_many_files"


def test_an_exchange_by_rename_is_a_new_directory(tmp_path: Path) -> None:
    drop(tmp_path / "finetuned/m")
    drop(tmp_path / "finetuned/.new")
    before = one(tmp_path)
    exchange(tmp_path / "finetuned/m", tmp_path / "finetuned/.new")
    assert one(tmp_path).inode != before.inode
    assert one(tmp_path).fingerprint != before.fingerprint


def exchange(left: Path, right: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.renameat2(-100, os.fsencode(left), -100, os.fsencode(right), 2) == 0, os.strerror(ctypes.get_errno())


def test_network_file_systems_are_told_by_the_mount_that_holds_the_path(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        "2 1 0:5 / /data rw shared:1 - nfs4 server:/x rw\n"
        "3 1 0:6 / /data/local rw - xfs /dev/sdb rw\n"
        "4 1 0:7 / /with\\040space rw - fuse.s3fs s3fs rw\n"
        "5 1 0:8 / /data/local/over rw - tmpfs none rw\n"
        "6 1 0:9 / /data/local/over rw - virtiofs tag rw\n"
    )
    assert kind("/data/models", str(table)) == "nfs4"
    assert is_network("/data/models", str(table))
    assert not is_network("/data/local/models", str(table))
    assert not is_network("/database", str(table))
    assert is_network("/with space/models", str(table))
    assert is_network("/data/local/over", str(table))
    assert not is_network("/data", str(tmp_path / "missing"))
