"""`m/m`: the newer of the two is served, one that is not whole never takes the other down, and the owner is told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from gateway.model import ModelId
from gateway.volume import generations, reasons
from gateway.volume.copying import Refused
from gateway.volume.directory import Directory
from gateway.volume.generations import Changed, Store
from gateway.volume.source import scan
from gateway.volume.sums import NAME as SUMS
from tests import making


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two whole models of other weights."""
    base = tmp_path_factory.mktemp("made")
    return Path(making.encoder(base / "old", seed=1)), Path(making.encoder(base / "new", seed=2))


@pytest.fixture
def root(tmp_path: Path, made: tuple[Path, Path]) -> Path:
    """`m` holds the old model, and in `m/m` the new one, which was copied later."""
    shutil.copytree(made[0], tmp_path / "models/finetuned/m")
    shutil.copytree(made[1], tmp_path / "models/finetuned/m/m")
    return tmp_path / "models"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "state"))
    store.sweep()
    return store


def look(root: Path) -> Directory:
    return scan(str(root)).directories[ModelId("finetuned", "m")]


def chosen(store: Store, root: Path) -> Directory:
    return store.choose(look(root), str(root))


def served(store: Store, root: Path) -> bytes:
    """The weights of what is taken."""
    return Path(store.accept(look(root), str(root)).path, "model.safetensors").read_bytes()


def weights(model: Path) -> bytes:
    return (model / "model.safetensors").read_bytes()


def warning(store: Store, root: Path) -> str:
    found = chosen(store, root).warning
    assert found is not None
    assert found.code == "nested_copy"
    return found.message


def test_of_two_whole_ones_the_newer_is_served_and_the_owner_is_told_how_to_copy(
    root: Path, store: Store, made: tuple[Path, Path]
) -> None:
    assert served(store, root) == weights(made[1])
    assert chosen(store, root).path == str(root / "finetuned/m/m")
    assert "the inner one is newer" in warning(store, root)
    assert f"copy to {root}/finetuned/" in warning(store, root)
    found = chosen(store, root).warning
    assert found is not None
    assert "kubectl cp ./m NAMESPACE/POD:" in found.remedy


def test_the_outer_one_is_served_again_once_it_is_copied_again(
    root: Path, store: Store, made: tuple[Path, Path]
) -> None:
    shutil.copytree(made[0], root / "finetuned/m", dirs_exist_ok=True)
    assert served(store, root) == weights(made[0])
    assert "the outer one is newer" in warning(store, root)


def test_an_edited_readme_makes_no_model_newer(root: Path, store: Store, made: tuple[Path, Path]) -> None:
    (root / "finetuned/m/README.md").write_text("edited")
    os.utime(root / "finetuned/m/README.md")
    assert served(store, root) == weights(made[1])


@pytest.mark.parametrize("missing", ["model.safetensors", "modules.json", "tokenizer.json", "1_Pooling/config.json"])
def test_an_inner_one_that_is_not_whole_never_takes_the_outer_one_down(
    root: Path, store: Store, made: tuple[Path, Path], missing: str
) -> None:
    os.remove(root / "finetuned/m/m" / missing)
    assert served(store, root) == weights(made[0])
    assert "the inner one is not whole" in warning(store, root)


def test_an_inner_one_that_its_sums_refute_is_not_whole(root: Path, store: Store, made: tuple[Path, Path]) -> None:
    (root / "finetuned/m/m" / SUMS).write_text(f"{'0' * 64}  model.safetensors\n")
    assert served(store, root) == weights(made[0])


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_when_only_the_inner_one_is_whole_it_is_served(
    root: Path, store: Store, made: tuple[Path, Path], missing: str
) -> None:
    os.remove(root / "finetuned/m" / missing)
    assert served(store, root) == weights(made[1])
    assert "the outer one is not whole" in warning(store, root)


def test_a_copy_into_an_empty_directory_of_the_same_name_is_served(
    tmp_path: Path, store: Store, made: tuple[Path, Path]
) -> None:
    shutil.copytree(made[0], tmp_path / "models/finetuned/m/m")
    assert served(store, tmp_path / "models") == weights(made[0])


def test_when_neither_is_whole_what_the_outer_one_lacks_is_told(root: Path, store: Store) -> None:
    os.remove(root / "finetuned/m/modules.json")
    os.remove(root / "finetuned/m/m/tokenizer.json")
    with pytest.raises(Refused, match=r"modules\.json is missing"):
        store.accept(look(root), str(root))


def test_both_are_watched(root: Path) -> None:
    before = look(root)
    assert before.nested is not None
    (root / "finetuned/m/m/model.safetensors.partial").write_text("x")
    assert look(root).in_progress == "m/model.safetensors.partial"
    assert look(root).fingerprint != before.fingerprint
    os.remove(root / "finetuned/m/m/model.safetensors.partial")
    os.utime(root / "finetuned/m/config.json")
    assert look(root).fingerprint != before.fingerprint
    again = look(root).nested
    assert again is not None
    assert again.fingerprint == before.nested.fingerprint


@pytest.mark.parametrize("place", ["m/config.json", "config.json"])
def test_a_change_between_the_look_and_the_choice_is_noticed(root: Path, store: Store, place: str) -> None:
    seen = look(root)
    os.utime(root / "finetuned/m" / place)
    with pytest.raises(Changed):
        store.accept(seen, str(root))


def test_a_change_of_the_chosen_one_while_it_is_copied_is_noticed(
    root: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = generations.copy

    def copy_and_touch(source: str, *rest: object) -> tuple[int, str]:
        os.utime(source)
        return copied(source, *rest)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(generations, "copy", copy_and_touch)
    with pytest.raises(Changed):
        store.accept(look(root), str(root))


def test_a_nested_directory_without_model_files_and_a_link_to_itself_are_no_models(
    tmp_path: Path, store: Store, made: tuple[Path, Path]
) -> None:
    model = shutil.copytree(made[0], tmp_path / "models/finetuned/m")
    (model / "m/notes").mkdir(parents=True)
    (model / "m/notes/config.json").write_text("{}")
    assert look(tmp_path / "models").nested is None
    shutil.rmtree(model / "m")
    (model / "m").symlink_to(".")
    assert look(tmp_path / "models").nested is None
    assert chosen(store, tmp_path / "models").warning is None


def test_a_legacy_model_and_a_numbered_version_may_be_nested_too(tmp_path: Path, made: tuple[Path, Path]) -> None:
    for place in ("legacy", "legacy/legacy", "finetuned/m/3", "finetuned/m/3/3"):
        shutil.copytree(made[0], tmp_path / place, dirs_exist_ok=True)
    found = scan(str(tmp_path)).directories
    assert {model.path: seen.nested and seen.nested.path for model, seen in found.items()} == {
        "legacy": str(tmp_path / "legacy/legacy"),
        "finetuned/m/3": str(tmp_path / "finetuned/m/3/3"),
    }


def test_a_directory_that_may_not_be_read_is_refused_for_that_whatever_is_nested_in_it(
    root: Path, store: Store
) -> None:
    error = reasons.reason("folder_unreadable", "1_Pooling: Permission denied")
    broken = msgspec.structs.replace(look(root), error=error)
    assert store.choose(broken, str(root)) == broken
    with pytest.raises(Refused, match="Permission denied"):
        store.accept(broken, str(root))
