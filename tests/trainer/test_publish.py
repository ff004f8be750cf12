"""`trainer publish`: whole or not at all, and only what belongs to the model."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import shutil
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from trainer import exchange as exchange_module
from trainer import publish as publish_module
from trainer.cli import main
from trainer.errors import InvalidInput, NotAModel, TrainerError
from trainer.gate import live_model
from trainer.publish import publish


def make_model(directory: Path, mark: str = "first") -> Path:
    """A small directory with everything that a training run leaves behind, the model among it. It is no encoder, so
    that the command does not load it: test_proof.py has those that are."""
    (directory / "1_Pooling").mkdir(parents=True)
    (directory / "1_Pooling" / "config.json").write_text("{}")
    (directory / "checkpoint-10").mkdir()
    (directory / "checkpoint-10" / "model.safetensors").write_bytes(b"old")
    for folder in ("checkpoints", "eval", "logs", ".cache"):
        (directory / folder).mkdir()
        (directory / folder / "config.json").write_text("{}")
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth", "pytorch_model.bin", "evil.py", ".hidden.json"):
        (directory / name).write_bytes(b"x")
    (directory / "config.json").write_text(
        json.dumps({"mark": mark, "architectures": ["TinyForSequenceClassification"]})
    )
    (directory / "vocab.txt").write_text("a\nb\n")
    (directory / "README.md").write_text("# a model\n")
    save_file({"w": np.arange(1024, dtype=np.float32)}, directory / "model.safetensors")
    return directory


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "run")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def test_only_what_belongs_to_the_model_is_published(model: Path, volume: Path) -> None:
    done = publish(model, "finetuned/physics", volume)
    published = tree(volume / "finetuned" / "physics")
    assert sorted(published) == [
        "1_Pooling/config.json",
        "README.md",
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
        "vocab.txt",
    ]
    assert published["model.safetensors"] == (model / "model.safetensors").read_bytes()
    assert (done.files, done.replaced, done.leftover) == (5, False, None)


def test_pickled_weights_are_published_only_where_no_safetensors_stand_beside_them(model: Path, volume: Path) -> None:
    (model / "2_Dense").mkdir()
    (model / "2_Dense" / "pytorch_model.bin").write_bytes(b"dense")
    publish(model, "finetuned/physics", volume)
    published = tree(volume / "finetuned" / "physics")
    assert published["2_Dense/pytorch_model.bin"] == b"dense"
    assert "pytorch_model.bin" not in published


def test_the_sums_are_those_that_sha256sum_accepts(model: Path, volume: Path) -> None:
    publish(model, "finetuned/physics", volume)
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=volume / "finetuned" / "physics",
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0
    assert checked.stdout.count(": OK") == 5


def test_published_files_have_the_mode_of_the_umask_and_not_that_of_safetensors(model: Path, volume: Path) -> None:
    (model / "model.safetensors").chmod(0o600)
    before = os.umask(0o027)
    try:
        publish(model, "finetuned/physics", volume)
    finally:
        os.umask(before)
    target = volume / "finetuned" / "physics"
    assert stat.S_IMODE((target / "model.safetensors").stat().st_mode) == 0o640
    assert stat.S_IMODE((target / "1_Pooling").stat().st_mode) == 0o750
    assert stat.S_IMODE(target.stat().st_mode) == 0o750


def test_a_second_model_of_the_name_replaces_the_first_and_nothing_else_is_left(
    model: Path, volume: Path, tmp_path: Path
) -> None:
    publish(model, "finetuned/physics", volume)
    first = (volume / "finetuned" / "physics").stat().st_ino
    done = publish(make_model(tmp_path / "second", "second"), "finetuned/physics", volume)
    assert done.replaced
    assert (volume / "finetuned" / "physics").stat().st_ino != first
    assert json.loads((volume / "finetuned" / "physics" / "config.json").read_text())["mark"] == "second"
    assert os.listdir(volume / "finetuned") == ["physics"]


def test_while_models_are_exchanged_a_reader_never_misses_one(model: Path, volume: Path) -> None:
    target = volume / "finetuned" / "physics"
    publish(model, "finetuned/physics", volume)
    if not can_exchange(volume):
        pytest.skip("this file system cannot exchange two names")
    missed, stop = [], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            if not (target / "SHA256SUMS").exists():
                missed.append("absent")

    reader = threading.Thread(target=watch)
    reader.start()
    try:
        for _ in range(20):
            publish(model, "finetuned/physics", volume)
    finally:
        stop.set()
        reader.join()
    assert missed == []


def can_exchange(volume: Path) -> bool:
    one, other = volume / ".one", volume / ".other"
    one.mkdir()
    other.mkdir()
    try:
        exchange_module.exchange(one, other)
    except OSError:
        return False
    finally:
        one.rmdir()
        other.rmdir()
    return True


def test_where_names_cannot_be_exchanged_two_renames_replace_the_model(
    model: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(one: Path, other: Path) -> None:
        raise OSError(errno.EINVAL, "not on this file system", str(other))

    monkeypatch.setattr(exchange_module, "exchange", unsupported)
    publish(model, "finetuned/physics", volume)
    publish(make_model(tmp_path / "second", "second"), "finetuned/physics", volume)
    assert json.loads((volume / "finetuned" / "physics" / "config.json").read_text())["mark"] == "second"
    assert os.listdir(volume / "finetuned") == ["physics"]


def test_when_the_second_of_two_renames_fails_the_old_model_is_back(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "old").touch()
    with pytest.raises(FileNotFoundError):
        exchange_module.exchange_by_renames(tmp_path / ".absent", tmp_path / "place")
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "old"]


KILLED = (
    "import errno, os, signal, sys\n"
    "from pathlib import Path\n"
    "from trainer import exchange, publish\n"
    "def unsupported(one, other): raise OSError(errno.EINVAL, 'not on this file system', str(other))\n"
    "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
    "rename = os.rename\n"
    "def renames(number):\n"
    "    def counted(one, other, left=[number]):\n"
    "        rename(one, other)\n"
    "        left[0] -= 1\n"
    "        left[0] or die()\n"
    "    exchange.exchange, os.rename = unsupported, counted\n"
    "how, source, model, volume, version = sys.argv[1:]\n"
    "if how != 'proof': renames(int(how))\n"
    "describe = die if how == 'proof' else None\n"
    "publish.publish(Path(source), model, Path(volume), version=int(version) or None, describe=describe)\n"
)


def publish_killed(how: str, model: Path, name: str, volume: Path, version: int = 0) -> None:
    """Dies by SIGKILL: after so many renames on a file system that cannot exchange names, or during its proof."""
    command = [sys.executable, "-c", KILLED, how, str(model), name, str(volume), str(version)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr


def mark(directory: Path) -> str:
    return str(json.loads((directory / "config.json").read_text())["mark"])


def test_a_model_that_a_kill_between_two_renames_took_away_is_back_before_anything_else(
    model: Path, volume: Path, tmp_path: Path
) -> None:
    publish(model, "finetuned/physics", volume)
    publish_killed("1", make_model(tmp_path / "second", "second"), "finetuned/physics", volume)
    assert not (volume / "finetuned" / "physics").exists()
    with pytest.raises(InvalidInput, match="is there already"):
        publish(model, "finetuned/physics", volume, replace=False)
    assert mark(volume / "finetuned" / "physics") == "first"
    assert os.listdir(volume / "finetuned") == ["physics"]


def test_a_kill_between_two_renames_is_mended_by_whoever_publishes_another_model_there(
    model: Path, volume: Path, tmp_path: Path
) -> None:
    publish(model, "finetuned/physics", volume)
    publish_killed("1", make_model(tmp_path / "second", "second"), "finetuned/physics", volume)
    publish(model, "finetuned/chemistry", volume)
    assert mark(volume / "finetuned" / "physics") == "first"
    assert sorted(os.listdir(volume / "finetuned")) == ["chemistry", "physics"]


def test_what_was_replaced_when_the_kill_came_does_not_come_back(model: Path, volume: Path, tmp_path: Path) -> None:
    publish(model, "finetuned/physics", volume)
    publish_killed("2", make_model(tmp_path / "second", "second"), "finetuned/physics", volume)
    assert mark(volume / "finetuned" / "physics") == "second"
    shutil.rmtree(volume / "finetuned" / "physics")  # somebody means it
    publish(model, "finetuned/chemistry", volume)
    assert os.listdir(volume / "finetuned") == ["chemistry"]


def test_the_gate_asks_a_model_that_a_kill_took_away(
    model: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(model, "finetuned/physics", volume)
    publish_killed("1", make_model(tmp_path / "second", "second"), "finetuned/physics", volume)
    asked: list[Path | None] = []

    def live(name: str, models_dir: Path) -> Path | None:
        asked.append(live_model(name, models_dir))
        raise NotAModel("enough")

    monkeypatch.setattr("trainer.gate.live_model", live)
    (tmp_path / "held_out.jsonl").write_text(json.dumps({"anchor": "a question", "positive": "its answer"}) + "\n")
    gate = ["--gate", "--data", str(tmp_path / "held_out.jsonl")]
    main(["publish", str(model), "finetuned/physics", "--models-dir", str(volume), *gate])
    assert asked == [volume / "finetuned" / "physics"]


@pytest.mark.parametrize("version", [0, 1])
def test_copies_of_publications_that_were_killed_are_gone_with_the_next(
    version: int, model: Path, volume: Path
) -> None:
    publish_killed("proof", model, "finetuned/physics", volume, version)
    folder = volume / "finetuned" / "physics" if version else volume / "finetuned"
    assert any((entry / "model.safetensors").is_file() for entry in folder.iterdir())
    assert live_model("finetuned/physics", volume) is None, "what is staged answers for nothing"
    publish(model, "finetuned/physics", volume, version=version or None)
    assert os.listdir(folder) == ["1" if version else "physics"]


def test_a_copy_that_somebody_is_at_work_on_is_left_alone(model: Path, volume: Path) -> None:
    def meanwhile(stage: Path) -> dict[str, str]:
        publish(model, "finetuned/other", volume)
        assert (stage / "model.safetensors").is_file()
        return {}

    publish(model, "finetuned/physics", volume, describe=meanwhile)
    assert sorted(os.listdir(volume / "finetuned")) == ["other", "physics"]


def test_hidden_folders_that_are_not_ours_are_left_alone(model: Path, volume: Path) -> None:
    for name in (".physics", ".physics.0123abcd", ".physics.old"):
        (volume / "finetuned" / name).mkdir(parents=True)
    publish(model, "finetuned/physics", volume)
    assert sorted(os.listdir(volume / "finetuned")) == [".physics", ".physics.0123abcd", ".physics.old", "physics"]


def test_a_volume_without_locks_takes_models_all_the_same(
    model: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("trainer.staging.fcntl.flock", unsupported)
    publish(model, "finetuned/physics", volume)
    assert os.listdir(volume / "finetuned") == ["physics"]


def test_a_link_in_the_place_of_the_model_is_replaced_and_what_it_leads_to_is_kept(model: Path, volume: Path) -> None:
    elsewhere = volume / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (volume / "finetuned").mkdir()
    (volume / "finetuned" / "physics").symlink_to(elsewhere)
    assert publish(model, "finetuned/physics", volume).replaced
    assert not (volume / "finetuned" / "physics").is_symlink()
    assert (elsewhere / "kept").exists()
    assert os.listdir(volume / "finetuned") == ["physics"]


def test_no_replace_keeps_the_model_that_is_there(
    model: Path, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(model, "finetuned/physics", volume)
    before = tree(volume)
    arguments = ["publish", str(model), "finetuned/physics", "--models-dir", str(volume), "--no-replace"]
    assert main(arguments) == 2
    assert "--replace" in capsys.readouterr().err
    assert tree(volume) == before


@pytest.mark.parametrize(
    "name",
    ["physics", "a/b/c", "../etc", "finetuned/..", "finetuned/.x", "finetuned/a b", "checkpoints/x", "finetuned/x.tmp"],
)
def test_a_name_that_the_gateway_would_not_list_is_refused(name: str, model: Path, volume: Path) -> None:
    with pytest.raises(InvalidInput, match=r"expected NAMESPACE/NAME|choose another name"):
        publish(model, name, volume)
    assert list(volume.iterdir()) == []


def test_a_truncated_weights_file_is_never_published(model: Path, volume: Path) -> None:
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(NotAModel, match=rf"model\.safetensors: truncated.*\({len(whole) - 1} bytes\)"):
        publish(model, "finetuned/physics", volume)
    assert list(volume.iterdir()) == []


def test_an_index_that_names_a_missing_shard_is_refused_by_that_name(model: Path, volume: Path) -> None:
    index = {"weight_map": {"w": "model-00001-of-00001.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(NotAModel, match=r"model-00001-of-00001\.safetensors"):
        publish(model, "finetuned/physics", volume)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: (model / "config.json").unlink(), "not a model"),
        (lambda model: (model / "config.json").write_text("{"), r"config\.json: not valid JSON"),
        (lambda model: (model / "model.safetensors").unlink() or (model / "pytorch_model.bin").unlink(), "no weights"),
        (lambda model: (model / "modules.json").write_text('[{"path": "../x"}]'), "leads out of the model"),
        (lambda model: (model / "tokenizer.json").symlink_to("/nowhere/at/all"), "a link whose target is missing"),
        (lambda model: os.mkfifo(model / "tokenizer.json"), "not a regular file"),
    ],
)
def test_a_directory_that_is_no_whole_model_is_refused_with_the_reason(
    spoil, message: str, model: Path, volume: Path
) -> None:
    spoil(model)
    with pytest.raises(NotAModel, match=message):
        publish(model, "finetuned/physics", volume)
    assert list(volume.iterdir()) == []


def test_of_a_training_run_the_final_model_is_published(model: Path, volume: Path, tmp_path: Path) -> None:
    run = tmp_path / "whole-run"
    run.mkdir()
    (run / "training_progress.json").write_text("{}")
    model.rename(run / "final_model")
    publish(run, "finetuned/physics", volume)
    assert (volume / "finetuned" / "physics" / "model.safetensors").is_file()


def test_a_missing_volume_is_an_input_error_and_is_not_created(model: Path, tmp_path: Path) -> None:
    assert main(["publish", str(model), "finetuned/x", "--models-dir", str(tmp_path / "absent")]) == 2
    assert not (tmp_path / "absent").exists()


def test_a_full_volume_is_told_before_anything_is_copied(
    model: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_module.shutil, "disk_usage", lambda path: Full())
    with pytest.raises(TrainerError, match="10 are free") as raised:
        publish(model, "finetuned/physics", volume)
    assert raised.value.exit_status == 1
    assert list(volume.iterdir()) == []


class Full:
    free = 10


def test_a_model_that_changes_while_it_is_copied_is_refused(model: Path, volume: Path) -> None:
    def grow(done: int, total: int) -> None:
        with (model / "config.json").open("a") as stream:
            stream.write(" ")

    with pytest.raises(InvalidInput, match="changed while it was copied"):
        publish(model, "finetuned/physics", volume, progress=grow)
    assert list(volume.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_publish_leaves_the_volume_as_it_was_and_exits_4(
    number: signal.Signals, model: Path, volume: Path
) -> None:
    # the interrupt comes from within the copy, so that no timing decides
    program = (
        "import os, signal, sys, trainer.publish as p, trainer.cli as c\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whoever runs this in the background ignores it
        "write = p._write_sums\n"
        f"p._write_sums = lambda *a: (os.kill(os.getpid(), {int(number)}), write(*a))\n"
        "sys.exit(c.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "publish", str(model), "finetuned/x", "--models-dir", str(volume)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert list(volume.iterdir()) == []


def test_a_publish_tells_in_one_line_what_is_there_and_in_one_how_to_ask(
    model: Path, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", str(model), "finetuned/physics", "--models-dir", str(volume)]) == 0
    told, how = capsys.readouterr().out.splitlines()
    assert told.startswith("published finetuned/physics: 6 files")
    body = how.partition("-d '")[2].rstrip("'")
    assert json.loads(body)["model"] == "huggingface:finetuned/physics"


def test_on_a_terminal_a_bar_shows_the_bytes(model: Path, volume: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "trainer", "publish", str(model), "finetuned/x", "--models-dir", str(volume)]
    with ThreadPoolExecutor(1) as beside:  # a slow bar is drawn often, and a terminal that nobody reads holds little
        shown = beside.submit(drawn, ours)
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, check=False, timeout=300)
        finally:
            os.close(theirs)
    os.close(ours)
    assert done.returncode == 0
    assert "4.3/4.3 kB" in shown.result()


def drawn(terminal: int) -> str:
    """All of it, once the other end is closed."""
    found = b""
    with contextlib.suppress(OSError):
        while content := os.read(terminal, 65536):
            found += content
    return found.decode()


def test_the_trainer_shares_no_code_with_the_gateway_and_its_help_loads_nothing_heavy() -> None:
    program = (
        "import sys, trainer.cli\n"
        "try: trainer.cli.main(['publish', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'safetensors', 'gateway'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for path in Path(publish_module.__file__).parent.glob("*.py"):
        assert "gateway import" not in path.read_text()
        assert "import gateway" not in path.read_text()
