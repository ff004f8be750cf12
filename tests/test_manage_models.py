"""scripts/manage-models.sh: on directories that the gateway judges, and a gateway that runs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway import check
from tests.making import adapter, encoder
from tests.ports import reserved
from tests.running import RunningGateway
from tests.scripted import ROOT, Ended, program, run


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """`finetuned/good`, which would be served, and `finetuned/half`, which has no weights."""
    root = tmp_path / "models"
    encoder(str(root / "finetuned" / "good"))
    shutil.copytree(root / "finetuned" / "good", root / "finetuned" / "half")
    (root / "finetuned" / "half" / "model.safetensors").unlink()
    return root


def manage(models: Path, *arguments: str) -> Ended:
    return run("manage-models.sh", *arguments, MODELS_DIR=str(models))


def test_the_list_says_of_each_directory_whether_it_would_be_served(models: Path) -> None:
    encoder(str(models / "flat"))
    done = manage(models, "list")
    assert done.status == 0, done.err
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in done.out.splitlines()}
    assert lines["finetuned/good"].startswith("ok encoder ")
    assert lines["finetuned/half"] == "REJECTED weights_missing"
    assert lines["flat"].startswith("ok encoder ")


def test_an_empty_volume_is_said_to_be_empty(tmp_path: Path) -> None:
    done = manage(tmp_path, "list")
    assert (done.status, done.out) == (0, f"no models in {tmp_path}\n")


def test_a_model_that_would_be_served_validates(models: Path) -> None:
    done = manage(models, "validate", "good")
    assert (done.status, done.out.splitlines()[0]) == (0, "accepted")


def test_a_model_that_would_not_be_served_does_not_validate_and_the_remedy_is_told(models: Path) -> None:
    done = manage(models, "validate", "finetuned/half")
    assert done.status == 1
    assert "weights_missing" in done.out
    assert "remedy:" in done.out


@pytest.mark.parametrize("name", ["../etc", "a/b/c", ".hidden", "x y", "finetuned/", ""])
def test_a_name_that_is_none_is_refused_before_anything_is_done(tmp_path: Path, name: str) -> None:
    done = manage(tmp_path, "create", name)
    assert done.status == 2
    assert list(tmp_path.iterdir()) == []


def test_what_was_created_is_not_served_before_a_model_is_in_it(tmp_path: Path) -> None:
    assert manage(tmp_path, "create", "mine").status == 0
    made = tmp_path / "finetuned" / "mine"
    assert json.loads((made / "model_metadata.json").read_text())["version"] == "1"
    assert check.run(str(made), allow_pickle=False, as_json=True) == 1
    again = manage(tmp_path, "create", "mine")
    assert again.status == 1
    assert "is there already" in again.err


def test_metadata_is_shown_and_changed_and_the_sums_follow(models: Path) -> None:
    good = models / "finetuned" / "good"
    (good / "model_metadata.json").write_text('{"license": "MIT", "version": "1"}')
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in good.iterdir() if file.is_file()}
    (good / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))

    done = manage(models, "metadata", "good", "display_name=Größe: 1=1", "version=")
    assert done.status == 0, done.err
    assert json.loads(done.out) == {"license": "MIT", "display_name": "Größe: 1=1"}
    assert json.loads(manage(models, "metadata", "good").out) == json.loads(done.out)
    assert manage(models, "validate", "good").status == 0, "SHA256SUMS counts"
    assert not list(good.glob(".*")), "nothing half written is left"


@pytest.mark.parametrize("broken", ["{", "[1]"])
def test_metadata_that_is_broken_is_not_overwritten(models: Path, broken: str) -> None:
    file = models / "finetuned" / "good" / "model_metadata.json"
    file.write_text(broken)
    done = manage(models, "metadata", "good", "version=2")
    assert done.status == 1
    assert "repair or remove it" in done.err
    assert file.read_text() == broken


def test_a_change_without_a_value_is_refused(models: Path) -> None:
    done = manage(models, "metadata", "good", "version")
    assert done.status == 1
    assert "expected KEY=VALUE" in done.err


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """These sources, with a deploy-model.sh that only says what it was given."""
    copy = tmp_path / "checkout"
    (copy / "scripts").mkdir(parents=True)
    for name in ("manage-models.sh", "model_metadata.py", "try_models.py"):
        shutil.copy(ROOT / "scripts" / name, copy / "scripts" / name)
    (copy / "gateway").symlink_to(ROOT / "gateway")
    program(copy / "scripts", "deploy-model.sh", 'printf "%s\\n" "$@"; exit 5')
    return copy / "scripts" / "manage-models.sh"


def test_an_upload_hands_a_good_model_over_and_ends_as_it_ends(checkout: Path, models: Path) -> None:
    done = run(checkout, "upload", "good", "--namespace", "lab", MODELS_DIR=str(models))
    given = [str(models / "finetuned" / "good"), "finetuned/good", "--namespace", "lab"]
    assert (done.status, done.out.splitlines()[-4:]) == (5, given)


def test_an_adapter_is_uploaded_without_its_base_which_need_not_be_here(checkout: Path, models: Path) -> None:
    base = encoder(str(models / "base" / "bert"))
    adapter(models / "finetuned" / "tuned", base=base)
    shutil.rmtree(base)
    done = run(checkout, "upload", "tuned", MODELS_DIR=str(models))
    assert (done.status, done.out.splitlines()[-1]) == (5, "finetuned/tuned")


def test_a_model_that_would_not_be_served_is_not_uploaded(checkout: Path, models: Path) -> None:
    done = run(checkout, "upload", "half", MODELS_DIR=str(models))
    assert done.status == 1
    assert "weights_missing" in done.out
    assert "is not uploaded" in done.err


async def test_models_are_tried_on_the_gateway_that_runs(models: Path, tmp_path: Path) -> None:
    async with RunningGateway(models, tmp_path / "state") as gateway:
        await gateway.wait_for("huggingface:finetuned/good", "ready", "loaded")
        every = await asyncio.to_thread(run, "manage-models.sh", "test", DROPGATE_URL=gateway.url)
        assert every.status == 0, every
        assert every.out.startswith("ok      huggingface:finetuned/good: ")
        half = await asyncio.to_thread(run, "manage-models.sh", "test", "finetuned/half", DROPGATE_URL=gateway.url)
        assert half.status == 1
        assert half.out.startswith("FAILED  finetuned/half: ")
    with reserved(urlsplit(gateway.url).port or 0):
        gone = await asyncio.to_thread(run, "manage-models.sh", "test", DROPGATE_URL=gateway.url)
    assert gone.status == 1
    assert "no gateway answers" in gone.err


@pytest.mark.parametrize("arguments", [(), ("serve",), ("list", "more"), ("validate",)])
def test_wrong_usage_is_status_2_with_the_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = manage(tmp_path, *arguments)
    assert done.status == 2
    assert "usage:" in done.err


def test_a_python_without_the_gateway_is_told_and_not_tried(tmp_path: Path) -> None:
    program(tmp_path / "bin", "other-python", "exit 1")
    done = run("manage-models.sh", "list", PYTHON=str(tmp_path / "bin" / "other-python"))
    assert done.status == 1
    assert "lacks the gateway's packages" in done.err
