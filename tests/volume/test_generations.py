"""The private store: whole, unchanging, stored once, and nothing half-made whatever goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.model import Accepted, Generation, ModelId
from gateway.volume import copying, generations
from gateway.volume.copying import Changed, Refused
from gateway.volume.directory import Directory
from gateway.volume.generations import Store
from gateway.volume.manifest import judge
from gateway.volume.source import scan
from gateway.volume.sums import Sums
from tests import making

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(making.encoder(tmp_path_factory.mktemp("made") / "m"))


@pytest.fixture
def root(tmp_path: Path, made: Path) -> Path:
    shutil.copytree(made, tmp_path / "models/finetuned/m")
    return tmp_path / "models"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "state"))
    store.sweep()
    return store


def look(root: Path, name: str = "m") -> Directory:
    return scan(str(root)).directories[ModelId("finetuned", name)]


def take(store: Store, root: Path, name: str = "m") -> Generation:
    return store.accept(look(root, name), str(root))


def refusal(store: Store, root: Path) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        take(store, root)
    return refused.value.reasons[0].code, refused.value.reasons[0].message


def left(root: Path) -> list[str]:
    return sorted(os.listdir(root.parent / "state/generations"))


def content(path: str | Path) -> dict[str, str]:
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            found[str(file.relative_to(path))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def write_sums(model: Path) -> None:
    listed = content(model)
    (model / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(listed.items())))


def test_a_generation_has_the_files_that_are_loaded_and_is_named_by_their_content(root: Path, store: Store) -> None:
    taken = take(store, root)
    verdict = judge(str(root / "finetuned/m"))
    assert isinstance(verdict, Accepted)
    stored = content(taken.path)
    assert tuple(sorted(stored)) == verdict.manifest.files == taken.manifest.files
    assert stored == {name: content(root / "finetuned/m")[name] for name in stored}
    spelled = "".join(f"{name}\0{digest}\n" for name, digest in sorted(stored.items()))
    assert taken.digest == hashlib.sha256(spelled.encode()).hexdigest()
    assert taken.manifest == verdict.manifest
    assert left(root) == [taken.digest]
    assert store.open(taken.digest) == taken
    assert store.bytes(taken.digest) == sum(os.stat(os.path.join(taken.path, name)).st_size for name in stored)


def test_a_generation_is_read_only(root: Path, store: Store) -> None:
    taken = take(store, root)
    for folder, _, names in os.walk(taken.path):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o555
        assert {stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) for name in names} <= {0o444}


def test_a_model_in_the_links_of_a_configmap_is_taken_and_its_exchange_is_a_new_generation(
    root: Path, store: Store
) -> None:
    model = root / "finetuned/m"
    (model / "..2026_01").mkdir()
    for name in sorted(os.listdir(model)):
        if not name.startswith(".."):
            (model / name).rename(model / "..2026_01" / name)
            (model / name).symlink_to(f"..data/{name}")
    (model / "..data").symlink_to("..2026_01")
    first = take(store, root)
    assert content(first.path) == {name: content(model / "..2026_01")[name] for name in first.manifest.files}
    making.encoder(model / "..2026_02", seed=9)
    seen = look(root)
    (model / "..data_tmp").symlink_to("..2026_02")
    (model / "..data_tmp").rename(model / "..data")
    with pytest.raises(Changed):
        store.accept(seen, str(root))
    second = take(store, root)
    assert second.digest != first.digest
    assert content(second.path) == {name: content(model / "..2026_02")[name] for name in second.manifest.files}


def test_what_happens_to_the_source_does_not_reach_the_generation(root: Path, store: Store) -> None:
    taken = take(store, root)
    before = content(taken.path)
    weights = root / "finetuned/m/model.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)
    os.truncate(root / "finetuned/m/config.json", 0)
    shutil.rmtree(root / "finetuned/m/1_Pooling")
    assert content(taken.path) == before


def test_equal_content_is_one_generation_and_is_stored_once(root: Path, store: Store) -> None:
    first = take(store, root)
    shutil.copytree(root / "finetuned/m", root / "finetuned/again")
    os.utime(root / "finetuned/again/config.json")
    (root / "finetuned/again/README.md").write_text("Another text.")
    (root / "finetuned/again/extra.py").write_text("import os")
    second = take(store, root, "again")
    assert second == first
    assert left(root) == [first.digest]
    assert stat.S_ISREG(os.stat(os.path.join(first.path, "config.json")).st_mode)


def test_equal_content_taken_at_the_same_time_is_one_generation(root: Path, store: Store) -> None:
    for name in ("b", "c", "d"):
        shutil.copytree(root / "finetuned/m", root / "finetuned" / name)
    with ThreadPoolExecutor(4) as lanes:
        taken = list(lanes.map(lambda name: take(store, root, name), ["m", "b", "c", "d"]))
    assert len(set(map(repr, taken))) == 1
    assert left(root) == [taken[0].digest]
    assert store.open(taken[0].digest) == taken[0]


def test_other_content_is_another_generation(root: Path, store: Store) -> None:
    first = take(store, root)
    config = root / "finetuned/m/config.json"
    config.write_text(config.read_text() + "\n")
    second = take(store, root)
    assert second.digest != first.digest
    assert store.digests() == {first.digest, second.digest}
    assert store.prune({second.digest}) == {first.digest}
    assert store.open(first.digest) is None
    assert store.open(second.digest) == second
    store.remove(second.digest)
    store.remove(second.digest)
    assert left(root) == []


def test_weights_under_the_name_that_transformers_does_not_read_are_stored_under_the_one_it_reads(
    root: Path, store: Store
) -> None:
    plain = take(store, root)
    (root / "finetuned/m/model.safetensors").rename(root / "finetuned/m/pytorch_model.safetensors")
    renamed = take(store, root)
    assert renamed == plain
    assert renamed.manifest.weights == ("model.safetensors",)


def test_links_inside_the_volume_become_files(root: Path, store: Store) -> None:
    plain = take(store, root)
    (root / "finetuned/.blobs").mkdir()
    weights = root / "finetuned/m/model.safetensors"
    weights.rename(root / "finetuned/.blobs/w")
    weights.symlink_to("../.blobs/w")
    assert take(store, root) == plain
    assert not os.path.islink(os.path.join(plain.path, "model.safetensors"))


def test_a_truncated_weights_file_is_refused_and_leaves_nothing(root: Path, store: Store) -> None:
    os.truncate(root / "finetuned/m/model.safetensors", 1000)
    assert refusal(store, root)[0] == "weights_truncated"
    assert left(root) == []


def test_a_directory_that_could_not_be_read_is_refused_with_its_own_reason(root: Path, store: Store) -> None:
    (root / "finetuned/out").symlink_to("/usr")
    with pytest.raises(Refused) as refused:
        take(store, root, "out")
    assert refused.value.reasons[0].code == "outside_volume"


def test_a_file_that_leads_out_of_the_volume_is_refused_and_leaves_nothing(root: Path, store: Store) -> None:
    tokenizer = root / "finetuned/m/tokenizer.json"
    shutil.copy(tokenizer, root.parent / "outside.json")
    tokenizer.unlink()
    tokenizer.symlink_to(root.parent / "outside.json")
    assert refusal(store, root)[0] == "outside_volume"
    assert left(root) == []


def test_a_directory_that_does_not_match_its_sums_is_refused_by_name(root: Path, store: Store) -> None:
    write_sums(root / "finetuned/m")
    config = root / "finetuned/m/config.json"
    config.write_text(config.read_text() + " ")
    code, message = refusal(store, root)
    assert code == "checksum_mismatch"
    assert "config.json" in message
    assert left(root) == []


def test_files_whose_sums_are_known_are_copied_by_the_kernel_to_the_same_generation(
    root: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = take(store, root)
    write_sums(root / "finetuned/m")
    monkeypatch.setattr(copying, "_hashing_copy", unwanted)
    other = Store(str(tmp_path / "other"), sums=Sums(str(root)))
    copied = other.accept(look(root), str(root))
    assert copied.digest == hashed.digest
    assert content(copied.path) == content(hashed.path)


def unwanted(*_: object) -> tuple[int, str]:
    raise AssertionError("hashed once more")


def test_where_the_kernel_can_not_copy_the_bytes_are_copied_by_hand(
    root: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_device(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    write_sums(root / "finetuned/m")
    monkeypatch.setattr(os, "copy_file_range", other_device)
    taken = take(store, root)
    stored = content(taken.path)
    assert stored == {name: content(root / "finetuned/m")[name] for name in stored}


def while_copying(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Lets `change` happen once, after the first file was copied."""
    real = generations.copy
    done: list[bool] = []

    def copy_then_change(*args: str) -> tuple[int, str]:
        answer = real(*args)
        if not done:
            done.append(True)
            change()
        return answer

    monkeypatch.setattr(generations, "copy", copy_then_change)


def test_a_source_that_is_overwritten_during_the_copy_is_started_over(
    root: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = root / "finetuned/m/model.safetensors"
    while_copying(monkeypatch, lambda: weights.write_bytes(weights.read_bytes()[::-1]))
    with pytest.raises(Changed):
        take(store, root)
    assert left(root) == []


def test_a_source_that_vanishes_during_the_copy_is_started_over(
    root: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    while_copying(monkeypatch, lambda: shutil.rmtree(root / "finetuned/m"))
    with pytest.raises(Changed):
        take(store, root)
    assert left(root) == []


def test_a_source_that_had_changed_before_it_was_judged_is_started_over(root: Path, store: Store) -> None:
    settled = look(root)
    os.truncate(root / "finetuned/m/model.safetensors", 10)
    with pytest.raises(Changed):
        store.accept(settled, str(root))


def test_any_exception_leaves_nothing_half_made(root: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    while_copying(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        take(store, root)
    assert left(root) == []


def test_what_a_killed_process_left_is_swept_and_whole_generations_stay(root: Path, store: Store) -> None:
    taken = take(store, root)
    half = root.parent / "state/generations/.0123456789abcdef/files/1_Pooling"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    half.chmod(0o555)
    store.sweep()
    assert left(root) == [taken.digest]
    assert store.open(taken.digest) == taken


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: os.truncate(stored / "files/model.safetensors", 10),
        lambda stored: (stored / "files/config.json").unlink(),
        lambda stored: (stored / "generation.json").write_text("{}"),
        lambda stored: (stored / "generation.json").write_bytes(b'{"digest": "\xed"}'),
        lambda stored: (stored / "generation.json").unlink(),
    ],
    ids=["truncated", "file_gone", "record_broken", "record_no_text", "record_gone"],
)
def test_a_damaged_generation_is_not_opened_and_is_made_anew(
    root: Path, store: Store, damage: Callable[[Path], object]
) -> None:
    taken = take(store, root)
    stored = root.parent / "state/generations" / taken.digest
    for folder, _, names in os.walk(stored):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            os.chmod(path, 0o755)
    damage(stored)
    assert store.open(taken.digest) is None
    assert take(store, root) == taken
    assert store.open(taken.digest) == taken


@pytest.mark.parametrize("digest", ["", "..", "0" * 64, "../../models/finetuned/m"])
def test_what_is_not_in_the_store_is_not_opened(store: Store, digest: str) -> None:
    assert store.open(digest) is None
    assert store.bytes(digest) == 0


def test_a_record_that_was_moved_to_another_name_is_not_believed(root: Path, store: Store) -> None:
    taken = take(store, root)
    shutil.copytree(root.parent / "state/generations" / taken.digest, root.parent / "state/generations" / ("0" * 64))
    assert store.open("0" * 64) is None


def test_a_disk_without_room_is_told_with_its_bytes_before_anything_is_copied(
    root: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1234, 1234))
    code, message = refusal(store, root)
    assert code == "disk_full"
    assert "1,234 free" in message
    assert f"{store_needs(root):,} bytes" in message
    assert left(root) == []


def store_needs(root: Path) -> int:
    verdict = judge(str(root / "finetuned/m"))
    assert isinstance(verdict, Accepted)
    sizes = [os.stat(root / "finetuned/m" / name).st_size for name in verdict.manifest.files]
    return sum(sizes) + generations.SPARE_BYTES


FILL = """
import json, os, shutil, sys
from gateway.model import ModelId
from gateway.volume.generations import Store
from gateway.volume.copying import Changed, Refused
from gateway.volume.source import scan
root, state = sys.argv[1:]
shutil.disk_usage = lambda _: shutil._ntuple_diskusage(10**12, 0, 10**12)  # another process fills it meanwhile
try:
    Store(state).accept(scan(root).directories[ModelId("finetuned", "m")], root)
except Refused as error:
    print(json.dumps([error.reasons[0].code, os.listdir(state + "/generations")]))
"""


def test_a_disk_that_becomes_full_in_the_middle_is_told_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    mount = f"mount -t tmpfs -o size=32k none {tmp_path}/small"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this kernel lets us mount no small file system")
    command = f'{mount} && exec {sys.executable} -c "$1" {root} {tmp_path}/small'
    ran = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", command, "sh", FILL], capture_output=True, text=True, cwd=REPO, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == ["disk_full", []]


def test_a_state_directory_that_can_not_be_written_is_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    code, message = refusal(Store(str(tmp_path / "file")), root)
    assert code == "store_unwritable"
    assert "Not a directory" in message


def test_the_real_minilm_is_taken_whole(tmp_path: Path, minilm: str, store: Store) -> None:
    shutil.copytree(minilm, tmp_path / "models/finetuned/m")
    taken = take(store, tmp_path / "models")
    assert taken.manifest.dim == 384
    assert content(taken.path)["model.safetensors"].startswith("53aa51172d142c89")
